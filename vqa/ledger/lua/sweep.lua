-- Verbs of the sweep, and counts.

-- most jobs in flight that are counted anew, so that Redis is not blocked
local MOST_RECOUNTED = 2000

-- the longest delay before a retry, unless a job's own policy allows more
local USUAL_DELAY_MS = 60000

local function first_ids(set, limit)
  return redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, limit)
end

-- ids with the latest times, if these are over `ms` away
local function far_ids(set, ms, limit)
  return redis.call('ZREVRANGEBYSCORE', set, '+inf', string.format('(%.0f', now + ms + STEP_MS), 'LIMIT', 0, limit)
end

local function each_open(set, ids, act)
  for _, id in ipairs(ids) do
    local key = 'vqa:job:' .. id
    local header, size, payload = read(key)
    if header and not is_id(id) then
      set_aside(key, redis.call('GET', key), 'its id cannot be a job\'s')
      header = nil
    end
    if header then
      act(id, key, header, size, payload)
    else
      -- the entry was deleted by hand, or has been set aside
      redis.call('ZREM', set, id)
    end
  end
end

-- leases or delays that are over; `ms` is how long they usually are
local function each_over(set, ms, limit, act)
  each_open(set, first_ids(set, limit), act)
  each_open(set, far_ids(set, ms, limit), function(id, key, header, ...)
    if is_over(header, tonumber(redis.call('ZSCORE', set, id))) then act(id, key, header, ...) end
  end)
end

-- limit: returns ids of jobs past their deadline
function verbs.overdue(limit)
  local ids = {}
  each_open('vqa:deadlines', first_ids('vqa:deadlines', limit), function(id) table.insert(ids, id) end)
  return ids
end

-- queue, limit, error, time at which the caller found that leases may be expired, lease in ms: moves jobs with an
-- expired lease back to the queue; returns their ids, and the ids of jobs whose last attempt this was, which are not
-- changed
function verbs.expire(queue, limit, error, asked, lease)
  local queued, last = {}, {}
  -- this call was delayed, and the workers' renewals may have been delayed, too; or the clock was set
  if math.abs(now - asked) > 2000 then return {queued, last} end
  each_over('vqa:leased:' .. queue, tonumber(lease), limit, function(id, key, header, size, payload)
    if header.alone then
      table.insert(last, id)
      return
    end
    -- the token stays: the worker may still renew or close it until another one takes the job
    record_attempt(header, error)
    header.lost, header.error = header.lost + 1, error
    move(id, header, 'queued')
    update(key, header, size, payload)
    table.insert(queued, id)
  end)
  return {queued, last}
end

-- queue, limit: queues jobs whose delay has ended; returns their ids
function verbs.release_delayed(queue, limit)
  local queued = {}
  each_over('vqa:delayed:' .. queue, USUAL_DELAY_MS, limit, function(id, key, header, size, payload)
    move(id, header, 'queued')
    update(key, header, size, payload)
    table.insert(queued, id)
  end)
  return queued
end

-- queue, age in ms, queueing time of the oldest message's job ('' for no message), limit: finds jobs that were queued
-- more than `age` ago, and more than `age` before that job, so that their message must be lost; marks them as queued
-- now and returns their ids
function verbs.requeue(queue, age, before, limit)
  local key = 'vqa:queued:' .. queue
  for _, id in ipairs(far_ids(key, 0, limit)) do
    -- the clock was set back since it was queued; removed first, see below
    redis.call('ZREM', key, id)
    redis.call('ZADD', key, now, id)
  end
  local bound = now - age
  -- producers overtake each other, so that a job may be a little older than the oldest message's
  if before ~= '' then bound = math.min(bound, before - age) end
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', string.format('(%.0f', bound), 'LIMIT', 0, limit)) do
    -- removed first: a full Redis allows further writes to a script whose first write frees memory
    redis.call('ZREM', key, id)
    if is_id(id) and redis.call('EXISTS', 'vqa:job:' .. id) == 1 then
      redis.call('ZADD', key, now, id)
      table.insert(found, id)
    end
  end
  return found
end

-- Counts each tenant's jobs in flight anew if the counts do not add up: entries that were set aside or deleted by hand
-- are still counted, and a set of counts that was set aside has lost them.
local function recount(queue)
  local in_flight, counted, counts = 0, 0, {}
  for _, state in ipairs(IN_FLIGHT) do in_flight = in_flight + redis.call('ZCARD', 'vqa:' .. state .. ':' .. queue) end
  local fields = redis.call('HGETALL', flight_key(queue))
  for i = 2, #fields, 2 do counted = counted + (tonumber(fields[i]) or 0) end
  if not is_bulk(queue) or counted == in_flight or in_flight > MOST_RECOUNTED then return end
  for _, state in ipairs(IN_FLIGHT) do
    for _, id in ipairs(redis.call('ZRANGE', 'vqa:' .. state .. ':' .. queue, 0, -1)) do
      local header = read('vqa:job:' .. id)
      local tenant = header and header.tenant
      if tenant then counts[tenant] = (counts[tenant] or 0) + 1 end
    end
  end
  redis.call('DEL', flight_key(queue))
  for tenant, count in pairs(counts) do redis.call('HSET', flight_key(queue), tenant, count) end
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', turns_key(queue), 'inf', 'inf')) do join_round(queue, tenant) end
end

-- queue, limit of a tenant's jobs in flight: promotes waiting jobs; returns their ids
function verbs.promote(queue, most)
  recount(queue)
  return promote(queue, tonumber(most))
end
