-- The open jobs and the dead letters. KEYS[i]: entries; ARGV[1]: the verb. Each verb is atomic; all times are this
-- server's, in milliseconds.
--
-- vqa:job:{id}            the header (JSON), a newline, the job as it was submitted
-- vqa:{state}:{lane}      sorted sets of ids: queued (since when), leased (until when), delayed (not before)
-- vqa:deadlines           sorted set of the ids of all open jobs by deadline
-- vqa:workers             hash of node name -> what it says of itself, with the time
-- vqa:dead:{id}           a dead letter: the same as an entry, with its reason; vqa:dead is their sorted set, by time
--
-- A header's token is drawn by whoever takes the job: only its holder may retry or close that attempt. An empty token
-- speaks for nobody's attempt: cancellation, closing what is past its deadline, giving up.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- a job that has lost a worker is given so many attempts, the last one alone in its worker
local LOST_ATTEMPTS = 3
-- of a job's past the newest are kept
local PAST = 20
local WORKERS_MS = 3600000

local function read(key)
  local entry = redis.call('GET', key)
  if not entry then return nil end
  local newline = string.find(entry, '\n', 1, true)
  return cjson.decode(string.sub(entry, 1, newline - 1)), string.sub(entry, newline + 1)
end

local function encode(header, payload)
  return cjson.encode(header) .. '\n' .. payload
end

local function write(key, header, payload)
  redis.call('SET', key, encode(header, payload))
end

local function dead_key(id)
  return 'vqa:dead:' .. id
end

local function set_of(header)
  return 'vqa:' .. header.state .. ':' .. header.lane
end

local function move(id, header, state, score)
  redis.call('ZREM', set_of(header), id)
  header.state = state
  redis.call('ZADD', set_of(header), score, id)
end

local function open(key, id, header, payload)
  write(key, header, payload)
  redis.call('ZADD', set_of(header), now, id)
  redis.call('ZADD', 'vqa:deadlines', header.deadline, id)
end

-- the attempt in hand has ended with this error
local function past(header, error)
  local history = header.history or {}
  table.insert(history,
    {attempt = header.attempt, worker = header.worker, taken = header.taken, ended = now, error = error})
  if #history > PAST then table.remove(history, 1) end
  header.history = history
end

local function keep_pictures(payload, ms)
  -- words of a user may look like a reference: then a picture that is there is kept for longer than it need be
  for reference in string.gmatch(payload, '"(sha256:%x+)"') do
    redis.call('PEXPIRE', 'vqa:image:' .. reference, ms, 'GT')
  end
end

-- returns how many of the oldest dead letters had to go
local function bury(id, header, payload, reason, ttl, most)
  header.state, header.reason, header.dead, header.token = 'dead', reason, now, nil
  redis.call('SET', dead_key(id), encode(header, payload), 'PX', ttl)
  redis.call('ZREMRANGEBYSCORE', 'vqa:dead', '-inf', now - ttl)
  redis.call('ZADD', 'vqa:dead', now, id)
  redis.call('PEXPIRE', 'vqa:dead', ttl)
  keep_pictures(payload, ttl)
  local over = redis.call('ZCARD', 'vqa:dead') - most
  if over <= 0 then return 0 end
  local oldest = redis.call('ZRANGE', 'vqa:dead', 0, over - 1)
  for _, each in ipairs(oldest) do
    redis.call('DEL', dead_key(each))
    redis.call('ZREM', 'vqa:dead', each)
  end
  return over
end

local verbs = {}

-- id, outcome's key, lane, payload, timeout in ms, reply list ('' for none), most open jobs of a lane
function verbs.accept(id, outcome, lane, payload, timeout, reply, most)
  if redis.call('EXISTS', KEYS[1]) == 1 then return 'open' end
  if redis.call('EXISTS', outcome, dead_key(id)) > 0 then return 'closed' end
  local count = 0
  for _, state in ipairs({'queued', 'leased', 'delayed'}) do
    count = count + redis.call('ZCARD', 'vqa:' .. state .. ':' .. lane)
  end
  if count >= tonumber(most) then return 'full' end
  local header = {state = 'queued', lane = lane, accepted = now, deadline = now + timeout, attempt = 0, lost = 0}
  header.reply = reply
  open(KEYS[1], id, header, payload)
  return 'accepted'
end

-- id, outcome's key, worker, token, lease in ms, '1' where nothing else runs in the worker; with the same token twice
-- (an answer lost on the way) it is still one attempt
function verbs.take(id, outcome, worker, token, lease, by_itself)
  local header, payload = read(KEYS[1])
  if not header then return {redis.call('EXISTS', outcome, dead_key(id)) > 0 and 'closed' or 'unknown'} end
  if header.token ~= token or header.state ~= 'leased' then
    if header.state ~= 'queued' then return {'held'} end
    if header.deadline <= now then return {'late'} end
    local last = header.lost > 0 and header.attempt + 1 >= LOST_ATTEMPTS
    if last and by_itself ~= '1' then return {'alone'} end
    header.attempt, header.alone = header.attempt + 1, last or nil
    header.worker, header.token, header.taken = worker, token, now
  end
  move(id, header, 'leased', now + lease)
  write(KEYS[1], header, payload)
  return {'taken', cjson.encode(header), payload, tostring(now)}
end

-- worker, what it says of itself (JSON), lease in ms, then id and token of each job it holds; returns the ids it lost
function verbs.renew(worker, about, lease, ...)
  -- a script whose first write gives memory back may write more in a full Redis: leases live on while nothing else fits
  redis.call('HDEL', 'vqa:workers', worker)
  local held = {...}
  local lost = {}
  for i = 1, #held, 2 do
    local id, token = held[i], held[i + 1]
    local key = KEYS[(i + 1) / 2]
    local header, payload = read(key)
    if not header or header.token ~= token then
      table.insert(lost, id)
    elseif header.state == 'leased' then
      redis.call('ZADD', set_of(header), now + lease, id)
    else
      -- its lease ran out and nobody has taken it since: it is this worker's again, and no worker was lost
      header.lost = header.lost - 1
      table.remove(header.history)
      local before = header.history[#header.history]
      header.error = before and before.error
      if not before then header.history = nil end
      move(id, header, 'leased', now + lease)
      write(key, header, payload)
    end
  end
  redis.call('HSET', 'vqa:workers', worker, cjson.encode({seen = now}) .. '\n' .. about)
  redis.call('PEXPIRE', 'vqa:workers', WORKERS_MS)
  return lost
end

-- id, token, delay in ms, error ('' keeps the last one), what the attempt counts as: '0' it did not happen, '1' an
-- attempt, 'lost' an attempt that lost its worker; says 1 also where an equal call, whose reply was lost, did it before
function verbs.retry(id, token, delay, error, charge)
  local header, payload = read(KEYS[1])
  if not header then return 0 end
  if header.token ~= token or header.state ~= 'leased' then return header.retried == token and 1 or 0 end
  if error ~= '' then
    past(header, error)
    header.error = error
  end
  if charge == '0' then header.attempt = header.attempt - 1 end
  if charge == 'lost' then header.lost = header.lost + 1 end
  header.retried, header.token = token, nil
  if tonumber(delay) > 0 then
    move(id, header, 'delayed', now + delay)
  else
    move(id, header, 'queued', now)
  end
  write(KEYS[1], header, payload)
  return 1
end

-- id, token, outcome's key, outcome as Celery's result backend encodes it, its time to live in ms, the reply list's in
-- ms; for a dead letter its reason (else ''), its error, its time to live in ms and how many there may be. Says 0 where
-- the token does not hold it, else 1 and one more for each dead letter that had to go. Without a token, only if the job
-- is still past its deadline ('late') or without the worker of its last attempt ('last')
function verbs.close(id, token, outcome_key, outcome, ttl, reply_ttl, reason, error, dead_ttl, most, only)
  local header, payload = read(KEYS[1])
  -- an equal call, whose reply was lost on the way, did it before
  if not header then return redis.call('GET', outcome_key) == outcome and 1 or 0 end
  -- a lease that ran out is still its holder's while nobody else has taken the job
  if token ~= '' and header.token ~= token then return 0 end
  if only == 'late' and tonumber(redis.call('ZSCORE', 'vqa:deadlines', id) or now + 1) > now then return 0 end
  if only == 'last' then
    local ends = header.state == 'leased' and header.alone and redis.call('ZSCORE', set_of(header), id)
    if not ends or tonumber(ends) > now then return 0 end
  end
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', set_of(header), id)
  redis.call('ZREM', 'vqa:deadlines', id)
  redis.call('SET', outcome_key, outcome, 'PX', ttl)
  redis.call('PUBLISH', outcome_key, outcome)
  if header.reply ~= '' then
    redis.call('RPUSH', header.reply, id)
    -- a client that never listens keeps so many; what is cut off is found by polling
    redis.call('LTRIM', header.reply, -100000, -1)
    redis.call('PEXPIRE', header.reply, reply_ttl)
  end
  if token == '' and header.state == 'leased' then redis.call('PUBLISH', 'vqa:dropped', id) end
  if reason == '' then return 1 end
  if header.state == 'leased' then past(header, error) end
  return 1 + bury(id, header, payload, reason, dead_ttl, most)
end

-- id, lane, what was set aside, reason, time to live in ms, how many dead letters there may be
function verbs.set_aside(id, lane, raw, reason, ttl, most)
  local header = {lane = lane, accepted = now, deadline = now, attempt = 0, lost = 0, reply = ''}
  return bury(id, header, raw, reason, ttl, most)
end

-- id, outcome's key, what pictures are kept for after a deadline, in ms: a dead letter is a job again, with its past
function verbs.reopen(id, outcome, margin)
  if redis.call('EXISTS', KEYS[1]) == 1 then return {'open'} end
  local header, payload = read(dead_key(id))
  if not header then return {'unknown'} end
  local timeout = header.deadline - header.accepted
  redis.call('DEL', dead_key(id), outcome)
  redis.call('ZREM', 'vqa:dead', id)
  local again = {state = 'queued', lane = header.lane, accepted = now, deadline = now + timeout, attempt = 0, lost = 0}
  again.reply, again.history = header.reply, header.history
  open(KEYS[1], id, again, payload)
  keep_pictures(payload, timeout + margin)
  return {'reopened', header.lane}
end
