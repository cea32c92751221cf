-- Verbs of served models.
--
-- vqa:models        hash of name -> JSON: seen, when a worker last said that it serves the model; declared, when one did
--                   that was given the name. Workers write it at each renewal, and it outlives them
-- vqa:canary        hash of name -> JSON: model, percent. The share of the name's jobs that goes to another model
-- vqa:models:open   see records.lua

local function has_jobs(model)
  for _, lane in ipairs({'interactive.', 'bulk.'}) do
    for _, state in ipairs(IN_FLIGHT) do
      if redis.call('EXISTS', 'vqa:' .. state .. ':' .. lane .. model) == 1 then return true end
    end
    if redis.call('EXISTS', turns_key(lane .. model)) == 1 then return true end
  end
  return false
end

-- ms after which a model that nobody has served is forgotten; returns the forgotten names. The sweep still knows it by
-- vqa:models:open, as long as it has jobs
function verbs.forget_models(keep)
  local forgotten = {}
  for _, model in ipairs(redis.call('ZRANGE', 'vqa:models:open', '0', '-1')) do
    if not has_jobs(model) then redis.call('ZREM', 'vqa:models:open', model) end
  end
  local listed = redis.call('HGETALL', 'vqa:models')
  for i = 1, #listed, 2 do
    local seen = try(function() return cjson.decode(listed[i + 1]).seen end)
    -- what cannot be read, or is from before the clock was set back, is written anew by those who serve the model
    if type(seen) ~= 'number' or math.abs(now - seen) > tonumber(keep) then
      redis.call('HDEL', 'vqa:models', listed[i])
      table.insert(forgotten, listed[i])
    end
  end
  return forgotten
end

-- moves a job to the queue of the model that it names; returns whether it is queued there
local function return_job(id, key, header, size, payload, most)
  local set = set_of(header)
  local score = redis.call('ZSCORE', set, id)
  leave(id, header)
  header.model, header.share_of = header.share_of, nil
  -- it must not overtake jobs that wait there
  if header.state == 'queued' and must_wait(queue_of(header), header.tenant, most) then header.state = 'waiting' end
  redis.call('ZADD', 'vqa:models:open', now, header.model)
  enter(id, header, most)
  -- a waiting job keeps its place, and a delayed one its delay
  if header.state ~= 'queued' then redis.call('ZADD', set_of(header), score, id) end
  update(key, header, size, payload)
  return header.state == 'queued'
end

-- queue, how many of its ids to skip, how many to look at, limit of a tenant's jobs in flight, models that are up: moves
-- jobs that a canary's share has sent to this queue, if the model that they name is up. Returns how many ids were looked
-- at, how many jobs were moved, and id and queue of each that the caller publishes
function verbs.return_shared(queue, skip, limit, most, ...)
  local up, sets = {}, {'vqa:queued:' .. queue, 'vqa:delayed:' .. queue}
  for _, model in ipairs({...}) do up[model] = true end
  for _, tenant in ipairs(redis.call('ZRANGE', turns_key(queue), '0', '-1')) do
    table.insert(sets, waiting_set(queue, tenant))
  end
  local left, seen, moved, queued = tonumber(skip), 0, 0, {}
  for _, set in ipairs(sets) do
    if seen >= tonumber(limit) then break end
    local size = redis.call('ZCARD', set)
    local ids = left < size and redis.call('ZRANGE', set, left, left + limit - seen - 1) or {}
    each_open(set, ids, function(id, key, header, bytes, payload)
      if not up[header.share_of] or set_of(header) ~= set then return end
      moved = moved + 1
      if return_job(id, key, header, bytes, payload, tonumber(most)) then
        table.insert(queued, id)
        table.insert(queued, queue_of(header))
      end
    end)
    left, seen = math.max(0, left - size), seen + #ids
  end
  return {seen, moved, queued}
end

-- numbers of waiting, queued, leased and delayed jobs of each queue, and when the oldest was queued in ms ('' for none):
-- five values for each of the queues
function verbs.depths(...)
  local depths = {}
  for _, queue in ipairs({...}) do
    local waiting = 0
    for _, tenant in ipairs(redis.call('ZRANGE', turns_key(queue), '0', '-1')) do
      waiting = waiting + redis.call('ZCARD', waiting_set(queue, tenant))
    end
    table.insert(depths, waiting)
    for _, state in ipairs(IN_FLIGHT) do
      table.insert(depths, redis.call('ZCARD', 'vqa:' .. state .. ':' .. queue))
    end
    table.insert(depths, redis.call('ZRANGE', 'vqa:queued:' .. queue, '0', '0', 'WITHSCORES')[2] or '')
  end
  return depths
end
