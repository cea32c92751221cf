-- Verbs of batches.

local function forget_fields(key, prefix)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, #prefix) == prefix then redis.call('HDEL', key, fields[i]) end
  end
end

-- Takes two members that are no longer there out of the index, if it meets some: for each batch that is added two places
-- are looked at, so that at most about half of the index is of batches that have expired, also if nobody lists them.
local function forget_expired()
  local count = redis.call('ZCARD', 'vqa:batches')
  for _, place in ipairs({now % math.max(count, 1), math.floor(now / 7) % math.max(count, 1)}) do
    local id = redis.call('ZRANGE', 'vqa:batches', place, place)[1]
    if id and redis.call('EXISTS', batch_key(id)) == 0 then redis.call('ZREM', 'vqa:batches', id) end
  end
end

-- id, lane, tenant, input, ms until it expires (0 for never), keep_ms, '1' if detached, '1' to reopen a cancelled
-- batch. Returns 1, or 0 if the batch exists; then it goes on with its counts and the new expiry
function verbs.batch_create(id, lane, tenant, input, expires, keep, detached, revived)
  local key = batch_key(id)
  local fresh = redis.call('HSETNX', key, 'created', now)
  expires = tonumber(expires) > 0 and now + expires or 0
  redis.call('HSET', key, 'lane', lane, 'tenant', tenant, 'input', input, 'expires', expires, 'keep_ms', keep)
  redis.call('HSET', key, 'detached', detached)
  redis.call('HDEL', key, 'sealed', 'expected')
  forget_fields(key, 'bad:')
  if revived == '1' and STOPPED[redis.call('HGET', key, 'status')] then set_status(key, 'in_progress') end
  if fresh == 1 then
    forget_expired()
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
  redis.call('HSET', key, 'sealed', now, 'total', total)
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

-- id, how many rows the whole input has, for predictions of the batch's end
function verbs.batch_expect(id, rows)
  local key = batch_key(id)
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('HSET', key, 'expected', rows)
  return 1
end

-- id, index of the first row, then "job id, newline, custom_id" of each row
function verbs.batch_rows(id, first, ...)
  local key, rows = batch_key(id), {...}
  if redis.call('EXISTS', key) == 0 then return 0 end
  -- an earlier call, whose reply was lost or whose caller has died, may have added some of them
  local there = #redis.call('LRANGE', key .. ':rows', first, first + #rows - 1)
  if there >= #rows then return 1 end
  redis.call('RPUSH', key .. ':rows', unpack(rows, there + 1))
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

local ONLY_AFTER = {finalizing = 'in_progress', in_progress = 'validating'}

-- id, status; `finalizing` only follows `in_progress`, which only follows `validating`
function verbs.batch_status(id, status)
  local key = batch_key(id)
  local before = redis.call('HGET', key, 'status')
  if not before or (ONLY_AFTER[status] and before ~= ONLY_AFTER[status]) then return 0 end
  set_status(key, status)
  return 1
end
