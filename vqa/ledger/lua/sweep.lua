-- Verbs over what is due, and over all jobs.

local function each_due(set, limit, act)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, limit)) do
    local key = 'vqa:job:' .. id
    local header, payload = read(key)
    if header then
      act(id, key, header, payload)
    else
      -- somebody removed the entry by hand: the others are not to wait for it
      redis.call('ZREM', set, id)
    end
  end
end

-- most ids: those whose deadline has passed
function verbs.overdue(limit)
  local ids = {}
  each_due('vqa:deadlines', limit, function(id) table.insert(ids, id) end)
  return ids
end

-- lane, most ids, error, when it was found that leases may be judged: moves what was leased until now back to the queue;
-- returns those ids, and those that had their last attempt, which are left as they are
function verbs.expire(lane, limit, error, asked)
  local queued, last = {}, {}
  -- the call was held up, and so may the workers' renewals have been
  if now - asked > 2000 then return {queued, last} end
  each_due('vqa:leased:' .. lane, limit, function(id, key, header, payload)
    if header.alone then
      table.insert(last, id)
      return
    end
    -- its token stays: until somebody else takes it, whoever had it may come back
    record_attempt(header, error)
    header.lost, header.error = header.lost + 1, error
    move(id, header, 'queued', now)
    write(key, header, payload)
    table.insert(queued, id)
  end)
  return {queued, last}
end

-- lane, most ids: moves what was delayed until now to the queue; returns those ids
function verbs.release_delayed(lane, limit)
  local queued = {}
  each_due('vqa:delayed:' .. lane, limit, function(id, key, header, payload)
    move(id, header, 'queued', now)
    write(key, header, payload)
    table.insert(queued, id)
  end)
  return queued
end

-- lane, age in ms, time of the earliest message ('' for none), most ids: those that have been queued for longer than the
-- age, and by the age before that message, are as if queued now; returns them
function verbs.requeue(lane, age, before, limit)
  local key = 'vqa:queued:' .. lane
  local bound = now - age
  -- producers overtake each other: only what is older by the age than the earliest message has none
  if before ~= '' then bound = math.min(bound, before - age) end
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', string.format('(%.0f', bound), 'LIMIT', 0, limit)) do
    -- removed in any case: a script whose first write gives memory back may write more in a full Redis
    redis.call('ZREM', key, id)
    if redis.call('EXISTS', 'vqa:job:' .. id) == 1 then
      redis.call('ZADD', key, now, id)
      table.insert(found, id)
    end
  end
  return found
end

-- lane, most jobs of a tenant in flight: queues what it is the turn of; returns those ids
function verbs.promote(lane, most)
  local in_flight = 0
  for _, state in ipairs({'queued', 'leased', 'delayed'}) do
    in_flight = in_flight + redis.call('ZCARD', 'vqa:' .. state .. ':' .. lane)
  end
  if in_flight == 0 then
    -- entries that somebody removed by hand were counted and never end
    redis.call('DEL', flight_key(lane))
    for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', turns_key(lane), 'inf', 'inf')) do
      redis.call('ZREM', turns_key(lane), tenant)
      join_round(lane, tenant)
    end
  end
  return promote(lane, tonumber(most))
end

-- how many are waiting, queued, leased, delayed: interactive ones, then bulk ones
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
