-- Webhooks that were asked for. Each verb is atomic. All times are this server's, in ms.
--
-- vqa:webhook:{id}       hash: url, secret, key_id, event (id of the event), created, late (to be told once that a batch
--                        will be late: that event has the id late_{id}), trace (W3C traceparent); once the job or batch `id` has
--                        ended also type, body and attempt (attempts to deliver it that have begun); once that is over
--                        also state, and neither secret nor body
-- vqa:webhooks:watched   sorted set of the ids that may still be open, by when they are to be looked at
-- vqa:webhooks:due       sorted set of the ids to be delivered, by when
--
-- Whoever claims an id moves its time into the future: the lease after which another process may claim it.

local WATCHED, DUE = 'vqa:webhooks:watched', 'vqa:webhooks:due'

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local verbs = {}

-- id, seconds that the record is kept, ms until the first look, then fields and values; 0 if there is a record
function verbs.watch(id, keep, delay, ...)
  local key = 'vqa:webhook:' .. id
  if redis.call('EXISTS', key) == 1 then return 0 end
  redis.call('HSET', key, 'created', now, ...)
  redis.call('EXPIRE', key, keep)
  return redis.call('ZADD', WATCHED, now + delay, id)
end

-- set, most ids, lease in ms; returns pairs of id and record
function verbs.claim(set, most, lease)
  local claimed = {}
  for _, id in ipairs(redis.call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)) do
    local key = 'vqa:webhook:' .. id
    local record = redis.pcall('HGETALL', key)
    if record.err or #record == 0 then
      -- expired, or overwritten by another program
      redis.call('ZREM', set, id)
    else
      redis.call('ZADD', set, now + lease, id)
      if set == DUE then redis.pcall('HINCRBY', key, 'attempt', 1) end
      claimed[#claimed + 1] = {id, redis.call('HGETALL', key)}
    end
  end
  return {now, claimed}
end

-- set, then ids, each with the ms until it is due again
function verbs.defer(set, ...)
  local words = {...}
  for i = 1, #words, 2 do
    redis.call('ZADD', set, 'XX', now + words[i + 1], words[i])
  end
end

-- id, type and body of the event: to be delivered now, unless another process has noticed the end first
function verbs.ended(id, type, body)
  if redis.call('ZREM', WATCHED, id) == 0 then return 0 end
  redis.call('HSET', 'vqa:webhook:' .. id, 'type', type, 'body', body, 'attempt', 0)
  return redis.call('ZADD', DUE, now, id)
end

-- id, seconds that the event's record is kept, id, type and body of the event that the batch will be late: to be delivered
-- now, once, unless the batch's end has been noticed
function verbs.late(id, keep, event, type, body)
  local key, own = 'vqa:webhook:' .. id, 'vqa:webhook:late_' .. id
  local url, secret, key_id, trace = unpack(redis.call('HMGET', key, 'url', 'secret', 'key_id', 'trace'))
  if not (url and secret and key_id) or redis.call('HEXISTS', key, 'type') == 1 then return 0 end
  if redis.call('HDEL', key, 'late') == 0 then return 0 end
  redis.call('HSET', own, 'created', now, 'url', url, 'secret', secret, 'key_id', key_id)
  redis.call('HSET', own, 'event', event, 'type', type, 'body', body, 'attempt', 0)
  if trace then redis.call('HSET', own, 'trace', trace) end
  redis.call('EXPIRE', own, keep)
  return redis.call('ZADD', DUE, now, 'late_' .. id)
end

-- id, how it ended, seconds for which a repeated watch has no effect
function verbs.close(id, state, keep)
  local key = 'vqa:webhook:' .. id
  redis.call('ZREM', WATCHED, id)
  redis.call('ZREM', DUE, id)
  if redis.call('EXISTS', key) == 0 then return end
  redis.call('HDEL', key, 'secret', 'body')
  redis.call('HSET', key, 'state', state)
  redis.call('EXPIRE', key, keep)
end

return verbs[ARGV[1]](unpack(ARGV, 2))
