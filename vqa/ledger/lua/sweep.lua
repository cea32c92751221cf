-- Verbs of the sweep, and counts.

-- lease of a job whose place among the leased ones was lost
local RESTORED_LEASE_MS = 30000

local function each_due(set, limit, act)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, limit)) do
    local key = 'vqa:job:' .. id
    local header, payload = read(key)
    if header and not is_id(id) then
      set_aside(key, encode(header, payload), 'its id cannot be a job\'s')
      header = nil
    end
    if header then
      act(id, key, header, payload)
    else
      -- the entry was deleted by hand, or has been set aside
      redis.call('ZREM', set, id)
    end
  end
end

-- limit: returns ids of jobs past their deadline
function verbs.overdue(limit)
  local ids = {}
  each_due('vqa:deadlines', limit, function(id) table.insert(ids, id) end)
  return ids
end

-- lane, limit, error, time at which the caller found that leases may be expired: moves jobs with an expired lease back
-- to the queue; returns their ids, and the ids of jobs whose last attempt this was, which are not changed
function verbs.expire(lane, limit, error, asked)
  local queued, last = {}, {}
  -- this call was delayed, and the workers' renewals may have been delayed, too
  if now - asked > 2000 then return {queued, last} end
  each_due('vqa:leased:' .. lane, limit, function(id, key, header, payload)
    if header.alone then
      table.insert(last, id)
      return
    end
    -- the token stays: the worker may still renew or close it until another one takes the job
    record_attempt(header, error)
    header.lost, header.error = header.lost + 1, error
    move(id, header, 'queued', now)
    write(key, header, payload)
    table.insert(queued, id)
  end)
  return {queued, last}
end

-- lane, limit: queues jobs whose delay has ended; returns their ids
function verbs.release_delayed(lane, limit)
  local queued = {}
  each_due('vqa:delayed:' .. lane, limit, function(id, key, header, payload)
    move(id, header, 'queued', now)
    write(key, header, payload)
    table.insert(queued, id)
  end)
  return queued
end

-- lane, age in ms, queueing time of the oldest message's job ('' for no message), limit: finds jobs that were queued
-- more than `age` ago, and more than `age` before that job, so that their message must be lost; marks them as queued
-- now and returns their ids
function verbs.requeue(lane, age, before, limit)
  local key = 'vqa:queued:' .. lane
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

-- lane, limit of a tenant's jobs in flight: promotes waiting jobs; returns their ids
function verbs.promote(lane, most)
  local in_flight = 0
  for _, state in ipairs({'queued', 'leased', 'delayed'}) do
    in_flight = in_flight + redis.call('ZCARD', 'vqa:' .. state .. ':' .. lane)
  end
  if in_flight == 0 then
    -- entries that were deleted by hand are still counted
    redis.call('DEL', flight_key(lane))
    for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', turns_key(lane), 'inf', 'inf')) do
      redis.call('ZREM', turns_key(lane), tenant)
      join_round(lane, tenant)
    end
  end
  return promote(lane, tonumber(most))
end

-- ids: returns open jobs to the sets that they are missing from, after a set was set aside
function verbs.restore(...)
  for _, id in ipairs({...}) do
    local header = read('vqa:job:' .. id)
    if header then
      redis.call('ZADD', 'vqa:deadlines', 'NX', header.deadline, id)
      if header.state == 'waiting' then
        if not redis.call('ZSCORE', turns_key(header.lane), header.tenant) then join_round(header.lane, header.tenant) end
        redis.call('ZADD', set_of(header), 'NX', header.accepted, id)
      else
        -- a worker that holds it renews its lease meanwhile
        redis.call('ZADD', set_of(header), 'NX', header.state == 'leased' and now + RESTORED_LEASE_MS or now, id)
      end
    end
  end
end

-- numbers of waiting, queued, leased and delayed jobs: four of the interactive lane, then four of the bulk lane
function verbs.counts()
  local counts, waiting = {}, redis.call('ZCARD', 'vqa:deadlines')
  for first, lane in pairs({[1] = 'interactive', [5] = 'bulk'}) do
    counts[first] = 0
    for number, state in ipairs({'queued', 'leased', 'delayed'}) do
      counts[first + number] = redis.call('ZCARD', 'vqa:' .. state .. ':' .. lane)
      waiting = waiting - counts[first + number]
    end
  end
  counts[5] = math.max(0, waiting)
  return counts
end
