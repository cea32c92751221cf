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
  dead = 'number', span = 'number', model = 'string', share_of = 'string',
}
-- defined in batches.lua
local leave_batch

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

-- whether it can be part of a key
local function is_model(name)
  return #name <= 128 and string.find(name, '^%w[%w._/@:+-]*$') ~= nil
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
    -- numbers that are none can be read and not written
    if (type(value) == 'table' or not kind and type(value) == 'number') and not pcall(cjson.encode, {value}) then
      return 'its header has no valid ' .. name
    end
  end
  if header.lane ~= 'interactive' and header.lane ~= 'bulk' then return 'its header has no valid lane' end
  if header.model and not is_model(header.model) then return 'its header has no valid model' end
  if header.share_of and not is_model(header.share_of) then return 'its header has no valid share_of' end
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

-- the header, its size with its spaces, and the payload if `head` is the whole entry; or nil and what is wrong
local function parse(head)
  local newline = string.find(head, '\n', 1, true)
  if not newline then return nil, 'it has no header' end
  local fine, header = pcall(cjson.decode, string.sub(head, 1, newline - 1))
  local wrong = flaw(fine and header)
  if wrong then return nil, wrong end
  return header, newline - 1, #head < FIRST_BYTES and string.sub(head, newline + 1) or nil
end

-- the first bytes of an entry, with its whole header; or an error reply, or nil if there is no entry
local function read_head(key)
  local head, bytes = redis.pcall('GETRANGE', key, '0', FIRST_RANGE), FIRST_BYTES
  while type(head) == 'string' and #head == bytes and not string.find(head, '\n', 1, true) do
    bytes = 2 * bytes
    head = redis.pcall('GETRANGE', key, '0', bytes - 1)
  end
  if head == '' and redis.call('EXISTS', key) == 0 then return nil end
  return head
end

local function is_wrong_type(reply)
  return type(reply) == 'table' and reply.err ~= nil and string.sub(reply.err, 1, 9) == 'WRONGTYPE'
end

local function is_id(id)
  return #id <= 128 and string.find(id, '^[%w._:@+-]+$') ~= nil
end

-- all queues that have jobs, or had some
local function all_queues()
  local queues = {'interactive', 'bulk'}
  for _, model in ipairs(try(redis.call, 'ZRANGE', 'vqa:models:open', '0', '-1') or {}) do
    table.insert(queues, 'interactive.' .. model)
    table.insert(queues, 'bulk.' .. model)
  end
  return queues
end

-- keeps what was found as a dead letter, and a note for the janitor's log
local function keep_damaged(id, raw, why, note)
  local header = {state = 'dead', lane = 'bulk', accepted = now, deadline = now, attempt = 0, lost = 0, reply = ''}
  header.reason, header.dead = 'damaged: ' .. why, now
  redis.call('SET', dead_key(id), encode(header, raw), 'PX', DAMAGED_MS)
  try(redis.call, 'ZADD', 'vqa:dead', now, id)
  try(function()
    if redis.call('PTTL', 'vqa:dead') < DAMAGED_MS then redis.call('PEXPIRE', 'vqa:dead', DAMAGED_MS) end
    redis.call('RPUSH', 'vqa:damaged', note)
    redis.call('LTRIM', 'vqa:damaged', -NOTES, -1)
    redis.call('PEXPIRE', 'vqa:damaged', DAMAGED_MS)
  end)
end

-- writes the outcome in the form of Celery's result backend, so that nobody waits for the job in vain
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
  keep_damaged(id, raw, why, key .. ': ' .. why)
  for _, queue in ipairs(all_queues()) do
    for _, state in ipairs(IN_FLIGHT) do try(redis.call, 'ZREM', 'vqa:' .. state .. ':' .. queue, id) end
  end
  try(redis.call, 'ZREM', 'vqa:deadlines', id)
  if is_id(id) then give_up(id, why) end
  local batch = string.match(id, '^(batch_[%x_]+):')
  if batch then try(leave_batch, batch, id, {code = 'job_given_up'}) end
end

local function is_open(header)
  local state = header.state
  return state == 'queued' or state == 'leased' or state == 'waiting' or state == 'delayed'
end

-- header of an open job, the header's size, and the payload if it is short; nil if there is none, also if it has just
-- been set aside
local function read(key)
  local head = read_head(key)
  if not head then return nil end
  if is_wrong_type(head) then
    set_aside(key, '', 'it is not a string')
    return nil
  end
  if type(head) == 'table' then error(head) end
  local header, size, payload = parse(head)
  if header and is_open(header) then return header, size, payload end
  set_aside(key, redis.call('GET', key), header and 'its header has no valid state' or size)
  return nil
end

-- header of a dead letter and the header's size; nil if there is none that can be read
local function read_dead(key)
  local head = read_head(key)
  if type(head) ~= 'string' then return nil end
  return parse(head)
end

