-- Batches (bulk submissions). `accept`, `close` and `reopen` change their counts in the same call.
--
-- vqa:batch:{id}       hash: status, created, {status}_at, total, completed, failed, failed:{code}, bad:{code} (the
--                      part of failed:{code} that the latest submission reported), worker:{node}, prompt_tokens,
--                      completion_tokens, cached_tokens, reasoning_tokens, tenant, lane, input, expected (rows of the whole
--                      input), sealed (when the last row was), expires, keep_ms, detached
-- vqa:batch:{id}:open  set of the ids of its open jobs
-- vqa:batch:{id}:rows  list of "job id, newline, custom_id", for a detached batch
-- vqa:batches          sorted set of the ids of all batches, by creation

local ENDED = {completed = true, expired = true, cancelled = true, failed = true}
local STOPPED = {cancelling = true, cancelled = true}
-- ms that a batch which is never sealed is kept after the deadline of its last job, at least
local IDLE_MS = 86400000
-- tolerance between the ends of a job and its batch, which are given as durations in separate calls
local EXPIRY_MS = 1000

local function batch_key(id)
  return 'vqa:batch:' .. id
end

local function keep_batch(key, ms)
  for _, each in ipairs({key, key .. ':open', key .. ':rows'}) do redis.call('PEXPIRE', each, ms) end
  if redis.call('PTTL', 'vqa:batches') < tonumber(ms) then redis.call('PEXPIRE', 'vqa:batches', ms) end
end

local function keep_ms(key)
  return tonumber(redis.call('HGET', key, 'keep_ms') or '') or IDLE_MS
end

-- keeps the batch well beyond `ms` from now; it usually is already
local function keep_batch_past(key, ms)
  local least = ms + math.max(IDLE_MS, keep_ms(key))
  -- the set of open jobs is created anew, without expiry, whenever it was empty
  if redis.call('PTTL', key .. ':open') < least then keep_batch(key, least + IDLE_MS) end
end

-- the outcomes of a detached batch are kept as long as the batch
local function outcome_ttl(batch, ttl)
  if not batch then return ttl end
  local key = batch_key(batch)
  return redis.pcall('HGET', key, 'detached') == '1' and math.max(tonumber(ttl), keep_ms(key)) or ttl
end

local function set_status(key, status)
  -- a full Redis allows further writes to a script whose first write frees memory
  redis.call('HDEL', key, 'nothing')
  redis.call('HSET', key, 'status', status, status .. '_at', now)
  if ENDED[status] then keep_batch(key, keep_ms(key)) end
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

-- nil or false if there is no such batch or it accepts no more jobs
local function batch_status(id)
  local status = redis.pcall('HGET', batch_key(id), 'status')
  return type(status) == 'string' and not STOPPED[status] and status
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
  add(key, 'failed', by)
  if code ~= '' and add(key, 'failed:' .. code, by) <= 0 then
    redis.call('HDEL', key, 'failed:' .. code)
  end
end

-- counts a closed job; returns the code under which it was counted ('' for an answer)
function leave_batch(batch, id, tally)
  local key = batch_key(batch)
  if redis.call('SREM', key .. ':open', id) == 0 then return tally.code end
  local expires = tonumber(redis.call('HGET', key, 'expires') or '')
  if not expires then return tally.code end
  local code = tally.code
  if code == '' then
    add(key, 'completed', 1)
    add(key, 'worker:' .. tally.worker, 1)
    add(key, 'prompt_tokens', tally.prompt_tokens)
    add(key, 'completion_tokens', tally.completion_tokens)
    -- workers of earlier releases do not say
    for _, name in ipairs({'cached_tokens', 'reasoning_tokens'}) do
      if (tally[name] or 0) > 0 then add(key, name, tally[name]) end
    end
  else
    if code == 'deadline_exceeded' and expires > 0 and now + EXPIRY_MS >= expires then
      code = 'batch_expired'
    end
    count_failed(key, code, 1)
  end
  end_batch(key)
  return code
end
