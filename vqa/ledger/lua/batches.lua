-- What is known of bulk submissions: their counts go with `accept`, `close` and `reopen`, in the same call.
--
-- vqa:batch:{id}       hash: status, created, {status}_at, total, completed, failed, failed:{code}, bad:{code} (those of
--                      them that this submission of it has told of), worker:{node}, prompt_tokens, completion_tokens,
--                      tenant, lane, input, sealed, expires, keep_ms, detached
-- vqa:batch:{id}:open  set of the ids of its open jobs
-- vqa:batch:{id}:rows  list of job id, newline, custom_id, of a detached one
-- vqa:batches          sorted set of batches by creation

local ENDED = {completed = true, expired = true, cancelled = true, failed = true}
local STOPPED = {cancelling = true, cancelled = true}
-- a batch that was never sealed is gone so long after the deadline of its last job, at least
local IDLE_MS = 86400000
-- a job's deadline and its batch's end are told as durations, one after the other
local EXPIRY_MS = 1000

local function batch_key(id)
  return 'vqa:batch:' .. id
end

local function keep_batch(key, ms)
  for _, each in ipairs({key, key .. ':open', key .. ':rows'}) do redis.call('PEXPIRE', each, ms) end
  if redis.call('PTTL', 'vqa:batches') < tonumber(ms) then redis.call('PEXPIRE', 'vqa:batches', ms) end
end

-- until well past so many ms from now; mostly it is kept for as long already
local function keep_batch_past(key, ms)
  local least = ms + math.max(IDLE_MS, tonumber(redis.call('HGET', key, 'keep_ms')))
  -- the set is made anew whenever no job was open
  if redis.call('PTTL', key .. ':open') < least then keep_batch(key, least + IDLE_MS) end
end

-- of a job of a batch that is collected later: as long as the batch is kept
local function outcome_ttl(batch, ttl)
  if not batch then return ttl end
  local detached, keep = unpack(redis.call('HMGET', batch_key(batch), 'detached', 'keep_ms'))
  return detached == '1' and math.max(ttl, tonumber(keep)) or ttl
end

local function set_status(key, status)
  -- a script whose first write gives memory back may write more in a full Redis
  redis.call('HDEL', key, 'nothing')
  redis.call('HSET', key, 'status', status, status .. '_at', now)
  if ENDED[status] then keep_batch(key, redis.call('HGET', key, 'keep_ms')) end
end

local function end_batch(key)
  if redis.call('EXISTS', key .. ':open') == 1 then return end
  local status, sealed, expired = unpack(redis.call('HMGET', key, 'status', 'sealed', 'failed:batch_expired'))
  if status == 'cancelling' then
    set_status(key, 'cancelled')
  elseif sealed and not ENDED[status] then
    set_status(key, expired and 'expired' or 'completed')
  end
end

-- false where no batch of that id is kept, or it takes no more
local function batch_status(id)
  local status = redis.call('HGET', batch_key(id), 'status')
  return status and not STOPPED[status] and status
end

local function join_batch(batch, id, timeout)
  local key, status = batch_key(batch), batch_status(batch)
  if not status then return false end
  redis.call('SADD', key .. ':open', id)
  if status ~= 'in_progress' then set_status(key, 'in_progress') end
  keep_batch_past(key, timeout)
  return true
end

local function count_failed(key, code, by)
  redis.call('HINCRBY', key, 'failed', by)
  if code ~= '' and redis.call('HINCRBY', key, 'failed:' .. code, by) <= 0 then
    redis.call('HDEL', key, 'failed:' .. code)
  end
end

local function forget_fields(key, prefix)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, #prefix) == prefix then redis.call('HDEL', key, fields[i]) end
  end
end

-- a job has ended; returns the code that it is counted under ('' for an answer)
local function leave_batch(batch, id, tally)
  local key = batch_key(batch)
  if redis.call('SREM', key .. ':open', id) == 0 then return tally.code end
  local expires = redis.call('HGET', key, 'expires')
  if not expires then return tally.code end
  local code = tally.code
  if code == '' then
    redis.call('HINCRBY', key, 'completed', 1)
    redis.call('HINCRBY', key, 'worker:' .. tally.worker, 1)
    redis.call('HINCRBY', key, 'prompt_tokens', tally.prompt_tokens)
    redis.call('HINCRBY', key, 'completion_tokens', tally.completion_tokens)
  else
    if code == 'deadline_exceeded' and tonumber(expires) > 0 and now + EXPIRY_MS >= tonumber(expires) then
      code = 'batch_expired'
    end
    count_failed(key, code, 1)
  end
  end_batch(key)
  return code
end

-- a dead letter of it is a job again; false where the batch takes it no more
local function rejoin_batch(batch, id, code, timeout)
  if not join_batch(batch, id, timeout) then return false end
  count_failed(batch_key(batch), code, -1)
  return true
end

-- id, lane, tenant, input, ms from now until it ends (0 for never), keep_ms, '1' where detached, '1' where one that was
-- cancelled takes jobs again: says 1, or 0 where it was there; then it goes on, with the new end
function verbs.batch_create(id, lane, tenant, input, expires, keep, detached, revived)
  local key = batch_key(id)
  local fresh = redis.call('HSETNX', key, 'created', now)
  expires = tonumber(expires) > 0 and now + expires or 0
  redis.call('HSET', key, 'lane', lane, 'tenant', tenant, 'input', input, 'expires', expires, 'keep_ms', keep)
  redis.call('HSET', key, 'detached', detached)
  redis.call('HDEL', key, 'sealed')
  forget_fields(key, 'bad:')
  if revived == '1' and STOPPED[redis.call('HGET', key, 'status')] then set_status(key, 'in_progress') end
  if fresh == 1 then
    redis.call('ZADD', 'vqa:batches', now, id)
    set_status(key, 'validating')
  end
  keep_batch_past(key, math.max(0, expires - now))
  return fresh
end

-- id, how many rows it has: no more will come; then, where whoever waited knows better what became of them, how many
-- were answered, and code and number of those that failed
function verbs.batch_seal(id, total, completed, ...)
  local key, codes, failed = batch_key(id), {...}, 0
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HDEL', key, 'nothing')
  if completed then
    forget_fields(key, 'failed:')
    for i = 1, #codes, 2 do
      redis.call('HSET', key, 'failed:' .. codes[i], codes[i + 1])
      failed = failed + codes[i + 1]
    end
    redis.call('HSET', key, 'completed', completed, 'failed', failed)
  end
  redis.call('HSET', key, 'sealed', 1, 'total', total)
  end_batch(key)
  return 1
end

-- id, how many rows were read, then code and number of rows that never became jobs, since the batch was begun or gone on
-- with: all of them, so that a call whose reply was lost may be made again
function verbs.batch_count(id, total, ...)
  local key, bad = batch_key(id), {...}
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HSET', key, 'total', total)
  for i = 1, #bad, 2 do
    local told = tonumber(redis.call('HGET', key, 'bad:' .. bad[i]) or 0)
    redis.call('HSET', key, 'bad:' .. bad[i], bad[i + 1])
    count_failed(key, bad[i], bad[i + 1] - told)
  end
  return 1
end

-- id, how many rows come before these, then job id, newline, custom_id of each
function verbs.batch_rows(id, first, ...)
  local key = batch_key(id)
  if redis.call('EXISTS', key) == 0 then return 0 end
  -- an equal call, whose reply was lost, did it before
  if #redis.call('LRANGE', key .. ':rows', first, first) > 0 then return 1 end
  redis.call('RPUSH', key .. ':rows', ...)
  redis.call('PEXPIRE', key .. ':rows', redis.call('PTTL', key))
  return 1
end

-- id: says '' where there is none, else the status that it has now
function verbs.batch_cancel(id)
  local key = batch_key(id)
  local status = redis.call('HGET', key, 'status')
  if not status then return '' end
  if ENDED[status] then return status end
  set_status(key, 'cancelling')
  end_batch(key)
  return redis.call('HGET', key, 'status')
end

-- id, status; `finalizing` comes after `in_progress` alone
function verbs.batch_status(id, status)
  local key = batch_key(id)
  local before = redis.call('HGET', key, 'status')
  if not before or (status == 'finalizing' and before ~= 'in_progress') then return 0 end
  set_status(key, status)
  return 1
end
