-- Damaged keys. Any program may write to Redis, so whatever is read here may be cut, foreign or of another type. An
-- entry that cannot be read is set aside among the dead letters under its id, whole, with the reason; its job ends with
-- JobGivenUp. A set, hash or list of another type is renamed to vqa:damaged:{key}, and a dead letter names it.
--
-- vqa:damaged  list of what was set aside since the janitor's last round, which logs it

-- ms that a damaged key, and the outcome of a damaged entry, are kept
local DAMAGED_MS, OUTCOME_MS = 604800000, 86400000
-- the largest integer that Lua counts exactly
local LARGEST = 2^53
-- notes for the janitor's log
local NOTES = 1000

local REQUIRED = {'state', 'lane', 'accepted', 'deadline', 'attempt', 'lost', 'reply'}
local TYPES = {
  state = 'string', lane = 'string', accepted = 'number', deadline = 'number', attempt = 'number', lost = 'number',
  reply = 'string', worker = 'string', token = 'string', taken = 'number', alone = 'boolean', retried = 'string',
  error = 'string', tenant = 'string', batch = 'string', code = 'string', history = 'table', reason = 'string',
  dead = 'number', span = 'number',
}
-- defined in batches.lua
local leave_batch

local OPEN_STATES = {waiting = true, queued = true, leased = true, delayed = true}
local LANES = {interactive = true, bulk = true}

-- runs what must not keep a job from being taken or closed: counts, turns, batches, notices
local function try(act, ...)
  local fine, result = pcall(act, ...)
  return fine and result or nil
end

-- adds to a number in a hash; one that is not a number is counted anew
local function add(key, field, by)
  local sum = redis.pcall('HINCRBY', key, field, by)
  if type(sum) == 'number' then return sum end
  redis.call('HSET', key, field, by)
  return tonumber(by)
end

-- what is wrong with a header, or nil. Most of a verb's time would go here if each field were a call
local function flaw(header)
  if type(header) ~= 'table' then return 'its header is no JSON object' end
  for i = 1, #REQUIRED do
    if header[REQUIRED[i]] == nil then return 'its header has no valid ' .. REQUIRED[i] end
  end
  for name, value in pairs(header) do
    local kind = TYPES[name]
    -- also false for what is no number and for what Lua does not count exactly
    if kind and (type(value) ~= kind or kind == 'number' and not (value <= LARGEST and value >= -LARGEST)) then
      return 'its header has no valid ' .. name
    end
  end
  if header.lane ~= 'interactive' and header.lane ~= 'bulk' then return 'its header has no valid lane' end
  if header.state == 'waiting' and not header.tenant then return 'its header has no valid tenant' end
  if header.reply ~= '' and string.sub(header.reply, 1, 10) ~= 'vqa:reply:' then
    return 'its header has no valid reply'
  end
  if header.history then
    for _, attempt in ipairs(header.history) do
      if type(attempt) ~= 'table' then return 'its header has no valid history' end
    end
  end
end

-- the header and its size with its spaces; or nil and what is wrong
local function parse(entry)
  local newline = string.find(entry, '\n', 1, true)
  if not newline then return nil, 'it has no header' end
  local fine, header = pcall(cjson.decode, string.sub(entry, 1, newline - 1))
  local wrong = flaw(fine and header)
  if wrong then return nil, wrong end
  return header, newline - 1
end

-- the first bytes of an entry, with its whole header; or an error reply, or nil if there is no entry
local function read_head(key)
  local bytes, head = HEADER_BYTES / 2, nil
  repeat
    bytes = 2 * bytes
    head = redis.pcall('GETRANGE', key, 0, bytes - 1)
  until type(head) ~= 'string' or #head < bytes or string.find(head, '\n', 1, true)
  if head == '' and redis.call('EXISTS', key) == 0 then return nil end
  return head
end

local function is_wrong_type(reply)
  return type(reply) == 'table' and reply.err ~= nil and string.sub(reply.err, 1, 9) == 'WRONGTYPE'
end

local function expire_later(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function note(what, why)
  try(function()
    redis.call('RPUSH', 'vqa:damaged', what .. ': ' .. why)
    redis.call('LTRIM', 'vqa:damaged', -NOTES, -1)
    redis.call('PEXPIRE', 'vqa:damaged', DAMAGED_MS)
  end)
end

local function keep_damaged(id, raw, why)
  local header = {state = 'dead', lane = 'bulk', accepted = now, deadline = now, attempt = 0, lost = 0, reply = ''}
  header.reason, header.dead = 'damaged: ' .. why, now
  redis.call('SET', dead_key(id), encode(header, raw), 'PX', DAMAGED_MS)
  try(redis.call, 'ZADD', 'vqa:dead', now, id)
  try(expire_later, 'vqa:dead', DAMAGED_MS)
end

local function is_id(id)
  return #id <= 128 and string.find(id, '^[%w._:@+-]+$') ~= nil
end

-- the outcome in the form of Celery's result backend, so that nobody waits for the job in vain
local function give_up(id, why)
  local said = 'damaged: its entry in Redis could not be read (' .. why .. '); submit it again under another id'
  local outcome = cjson.encode({
    task_id = id, status = 'FAILURE', traceback = cjson.null, date_done = cjson.null, attempts = 0,
    result = {exc_type = 'JobGivenUp', exc_message = {said}, exc_module = 'vqa.errors'},
  })
  local key = 'celery-task-meta-' .. id
  if redis.call('SET', key, outcome, 'NX', 'PX', OUTCOME_MS) then redis.call('PUBLISH', key, outcome) end
end

local function set_aside(key, raw, why)
  local id = string.sub(key, #'vqa:job:' + 1)
  -- deleted first: a full Redis allows further writes to a script whose first write frees memory
  redis.call('DEL', key)
  keep_damaged(id, raw, why)
  for lane in pairs(LANES) do
    for _, state in ipairs({'queued', 'leased', 'delayed'}) do
      try(redis.call, 'ZREM', 'vqa:' .. state .. ':' .. lane, id)
    end
  end
  try(redis.call, 'ZREM', 'vqa:deadlines', id)
  if is_id(id) then give_up(id, why) end
  local batch = string.match(id, '^(batch_%x+):')
  if batch then try(leave_batch, batch, id, {code = 'job_given_up'}) end
  note(key, why)
end

-- header of an open job and the header's size; nil if there is none, also if it has just been set aside
local function read(key)
  local head = read_head(key)
  if not head then return nil end
  local why
  if is_wrong_type(head) then
    set_aside(key, '', 'it is not a string')
  elseif type(head) == 'table' then
    error(head)
  else
    local header, size = parse(head)
    if header and OPEN_STATES[header.state] then return header, size end
    set_aside(key, redis.call('GET', key), header and 'its header has no valid state' or size)
  end
  return nil
end

-- header of a dead letter and the header's size; nil if there is none that can be read
local function read_dead(key)
  local head = read_head(key)
  if type(head) ~= 'string' then return nil end
  return parse(head)
end

-- KEYS are entries: returns for each what is wrong with it, or ''. Changes nothing
function verbs.flaws()
  local found = {}
  for i, key in ipairs(KEYS) do
    local entry = read_head(key)
    local header, rest
    if type(entry) == 'string' then header, rest = parse(entry) end
    if header and not OPEN_STATES[header.state] then header, rest = nil, 'its header has no valid state' end
    found[i] = is_wrong_type(entry) and 'it is not a string' or entry and not header and rest or ''
  end
  return found
end

-- a command that fails on another type, by type
local PROBES = {
  zset = {'ZCARD'}, hash = {'HGET', 'nothing'}, list = {'LRANGE', 0, 0}, string = {'GET'}, set = {'SCARD'},
}

local function has_wrong_type(kind, key)
  local command, first, last = unpack(PROBES[kind])
  if last then return is_wrong_type(redis.pcall(command, key, first, last)) end
  if first then return is_wrong_type(redis.pcall(command, key, first)) end
  return is_wrong_type(redis.pcall(command, key))
end

-- a type for each of KEYS: returns those of the keys that have another one. Changes nothing
function verbs.wrong_types(...)
  local wrong = {}
  for i, kind in ipairs({...}) do
    if has_wrong_type(kind, KEYS[i]) then table.insert(wrong, KEYS[i]) end
  end
  return wrong
end

-- a type for each of KEYS: sets those aside that have another one. Returns their number, and the notes of everything
-- that was set aside since the last call
function verbs.mend(...)
  local wrong = 0
  for i, kind in ipairs({...}) do
    local key = KEYS[i]
    if has_wrong_type(kind, key) then
      wrong = wrong + 1
      redis.call('RENAME', key, 'vqa:damaged:' .. key)
      redis.call('PEXPIRE', 'vqa:damaged:' .. key, DAMAGED_MS)
      local why = key .. ' is not a ' .. kind .. '; it is kept as vqa:damaged:' .. key
      keep_damaged('damaged-' .. string.sub(redis.sha1hex(key), 1, 12), '', why)
      note(key, 'it is not a ' .. kind)
    end
  end
  local notes = redis.call('LRANGE', 'vqa:damaged', 0, -1)
  redis.call('DEL', 'vqa:damaged')
  return {wrong, notes}
end
