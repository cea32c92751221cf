-- Batches (bulk submissions). `accept`, `close` and `reopen` change their counts in the same call.
--
-- vqa:batch:{id}       hash: status, created, {status}_at, total, completed, failed, failed:{code}, bad:{code} (the
--                      part of failed:{code} that the latest submission reported), worker:{node}, prompt_tokens,
--                      completion_tokens, tenant, lane, input, sealed, expires, keep_ms, detached
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
  return redis.pcall('HGET', key, 'detached') == '1' and math.max(ttl, keep_ms(key)) or ttl
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

local function forget_fields(key, prefix)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, #prefix) == prefix then redis.call('HDEL', key, fields[i]) end
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
  else
    if code == 'deadline_exceeded' and expires > 0 and now + EXPIRY_MS >= expires then
      code = 'batch_expired'
    end
    count_failed(key, code, 1)
  end
  end_batch(key)
  return code
end

-- uncounts a dead letter that is reopened; false if the batch accepts no more jobs
local function rejoin_batch(batch, id, code, timeout)
  if not join_batch(batch, id, timeout) then return false end
  count_failed(batch_key(batch), code, -1)
  return true
end

-- id, lane, tenant, input, ms until it expires (0 for never), keep_ms, '1' if detached, '1' to reopen a cancelled
-- batch. Returns 1, or 0 if the batch exists; then it goes on with its counts and the new expiry
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

-- id, total number of rows. A submitter that has seen all outcomes adds the number of answers, then code and number of
-- failures; these replace the counts
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

-- id, rows read, then code and number of the rows that never became jobs. All numbers are totals since `batch_create`,
-- so that a call whose reply was lost can be repeated
function verbs.batch_count(id, total, ...)
  local key, bad = batch_key(id), {...}
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HSET', key, 'total', total)
  for i = 1, #bad, 2 do
    local reported = tonumber(redis.call('HGET', key, 'bad:' .. bad[i]) or 0) or 0
    redis.call('HSET', key, 'bad:' .. bad[i], bad[i + 1])
    count_failed(key, bad[i], bad[i + 1] - reported)
  end
  return 1
end

-- id, index of the first row, then "job id, newline, custom_id" of each row
function verbs.batch_rows(id, first, ...)
  local key = batch_key(id)
  if redis.call('EXISTS', key) == 0 then return 0 end
  -- an equal call, whose reply was lost, has already added them
  if #redis.call('LRANGE', key .. ':rows', first, first) > 0 then return 1 end
  redis.call('RPUSH', key .. ':rows', ...)
  redis.call('PEXPIRE', key .. ':rows', redis.call('PTTL', key))
  return 1
end

-- id. Returns '' if there is no such batch, else its status now
function verbs.batch_cancel(id)
  local key = batch_key(id)
  local status = redis.call('HGET', key, 'status')
  if not status then return '' end
  if ENDED[status] then return status end
  set_status(key, 'cancelling')
  end_batch(key)
  return redis.call('HGET', key, 'status')
end

-- id, status; `finalizing` only follows `in_progress`
function verbs.batch_status(id, status)
  local key = batch_key(id)
  local before = redis.call('HGET', key, 'status')
  if not before or (status == 'finalizing' and before ~= 'in_progress') then return 0 end
  set_status(key, status)
  return 1
end
