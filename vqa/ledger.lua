-- The open jobs. KEYS[i]: entries; ARGV[1]: the verb. Each verb is atomic; all times are this server's, in milliseconds.
--
-- vqa:job:{id}            the header (JSON), a newline, the job as it was submitted
-- vqa:{state}:{lane}      sorted sets of ids: queued (since when), leased (until when), delayed (not before)
-- vqa:deadlines           sorted set of ids by deadline
-- vqa:workers             hash of node name -> what it says of itself, with the time
--
-- A header's token is drawn by whoever takes the job: only its holder may retry or close that attempt. An empty token
-- speaks for nobody's attempt: the janitor's moves of what is due, cancellation, closing what is past its deadline.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read(key)
  local entry = redis.call('GET', key)
  if not entry then return nil end
  local newline = string.find(entry, '\n', 1, true)
  return cjson.decode(string.sub(entry, 1, newline - 1)), string.sub(entry, newline + 1)
end

local function write(key, header, payload)
  redis.call('SET', key, cjson.encode(header) .. '\n' .. payload)
end

local function set_of(header)
  return 'vqa:' .. header.state .. ':' .. header.lane
end

local function move(id, header, state, score)
  redis.call('ZREM', set_of(header), id)
  header.state = state
  redis.call('ZADD', set_of(header), score, id)
end

local verbs = {}

-- id, outcome's key, lane, payload, timeout in ms, reply list ('' for none)
function verbs.accept(id, outcome, lane, payload, timeout, reply)
  if redis.call('EXISTS', KEYS[1]) == 1 then return 'open' end
  if redis.call('EXISTS', outcome) == 1 then return 'closed' end
  local deadline = now + timeout
  local header = {state = 'queued', lane = lane, accepted = now, deadline = deadline, attempt = 0, lost = 0, reply = reply}
  write(KEYS[1], header, payload)
  redis.call('ZADD', set_of(header), now, id)
  redis.call('ZADD', 'vqa:deadlines', deadline, id)
  return 'accepted'
end

-- id, outcome's key, worker, token, lease in ms; with the same token twice (an answer lost on the way) it is still one attempt
function verbs.take(id, outcome, worker, token, lease)
  local header, payload = read(KEYS[1])
  if not header then return {redis.call('EXISTS', outcome) == 1 and 'closed' or 'unknown'} end
  if header.token ~= token or header.state ~= 'leased' then
    if header.state ~= 'queued' then return {'held'} end
    if header.deadline <= now then return {'late'} end
    header.attempt = header.attempt + 1
    header.worker = worker
    header.token = token
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
      move(id, header, 'leased', now + lease)
      write(key, header, payload)
    end
  end
  redis.call('HSET', 'vqa:workers', worker, cjson.encode({seen = now}) .. '\n' .. about)
  return lost
end

-- id, token, delay in ms, error ('' keeps the last one), '1' if the attempt counts; says 1 also where an equal call,
-- whose reply was lost on the way, did it before
function verbs.retry(id, token, delay, error, counted)
  local header, payload = read(KEYS[1])
  if not header then return 0 end
  if token == '' then
    if header.state == 'queued' then return 1 end
    local due = redis.call('ZSCORE', set_of(header), id)
    if not due or tonumber(due) > now then return 0 end
    if header.state == 'leased' then header.lost = header.lost + 1 end
  elseif header.token ~= token or header.state ~= 'leased' then
    return header.retried == token and 1 or 0
  end
  if counted == '0' then header.attempt = header.attempt - 1 end
  if error ~= '' then header.error = error end
  if token ~= '' then header.retried = token end
  if header.state == 'delayed' or token ~= '' then header.token = nil end
  if tonumber(delay) > 0 then
    move(id, header, 'delayed', now + delay)
  else
    move(id, header, 'queued', now)
  end
  write(KEYS[1], header, payload)
  return 1
end

-- id, token, outcome's key, outcome as Celery's result backend encodes it, its time to live in ms, the reply list's in ms
function verbs.close(id, token, outcome_key, outcome, ttl, reply_ttl)
  local header = read(KEYS[1])
  -- an equal call, whose reply was lost on the way, did it before
  if not header then return redis.call('GET', outcome_key) == outcome and 1 or 0 end
  -- a lease that ran out is still its holder's while nobody else has taken the job
  if token ~= '' and header.token ~= token then return 0 end
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
  return 1
end

return verbs[ARGV[1]](unpack(ARGV, 2))
