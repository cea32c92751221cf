-- Fair share of tenants: waiting bulk jobs are promoted to the queue round-robin by tenant. Jobs without a tenant
-- belong to the tenant ''. A job in flight is queued, leased or delayed.
--
-- Each model's jobs are promoted for themselves, as its workers' slots are there for them alone.
--
-- vqa:waiting:{queue}:{tenant}  sorted set of ids by acceptance; these jobs have no message yet
-- vqa:turns:{queue}             sorted set of the tenants with waiting jobs, by turn; inf for a tenant at its limit of
--                               jobs in flight
-- vqa:flight:{queue}            hash of tenant -> number of its jobs in flight
-- vqa:capacity, vqa:capacity.{model}  slots of all living workers together that take jobs which name no model, or this

-- bulk jobs that are queued before any has to wait, however few slots there are
local LEAST_QUEUED = 64
-- most jobs promoted by one call, so that Redis is not blocked
local PORTION = 256

local function turns_key(queue)
  return 'vqa:turns:' .. queue
end

local function flight_key(queue)
  return 'vqa:flight:' .. queue
end

-- how many jobs of a bulk queue to keep queued: enough for workers that finish in lock-step, few enough for turns to
-- come soon
local function target(queue)
  return math.max(LEAST_QUEUED, 2 * (tonumber(redis.call('GET', 'vqa:capacity' .. suffix_of(queue)) or 0) or 0))
end

local function last_turn(queue)
  local last = redis.call('ZREVRANGEBYSCORE', turns_key(queue), '(+inf', '-inf', 'WITHSCORES', 'LIMIT', '0', '1')
  return tonumber(last[2] or 0)
end

local function join_round(queue, tenant)
  redis.call('ZADD', turns_key(queue), last_turn(queue) + 1, tenant)
end

-- interactive jobs and entries of earlier releases, which have no tenant, are not counted
local function count_in_flight(header, by)
  local tenant = header.tenant
  if header.lane ~= 'bulk' or not tenant then return end
  local queue = queue_of(header)
  local left = add(flight_key(queue), tenant, by)
  if left <= 0 then redis.call('HDEL', flight_key(queue), tenant) end
  if by < 0 and redis.call('ZSCORE', turns_key(queue), tenant) == 'inf' then join_round(queue, tenant) end
end

local function below_limit(queue, tenant, most)
  return most == 0 or (tonumber(redis.call('HGET', flight_key(queue), tenant) or 0) or 0) < most
end

-- whether a job accepted now has to wait: it must not overtake waiting jobs
local function must_wait(queue, tenant, most)
  if not is_bulk(queue) then return false end
  if redis.call('ZCARD', 'vqa:queued:' .. queue) >= target(queue) then return true end
  local first = redis.call('ZRANGE', turns_key(queue), '0', '0', 'WITHSCORES')
  if first[1] and (first[2] ~= 'inf' or redis.call('ZSCORE', turns_key(queue), tenant)) then return true end
  return not below_limit(queue, tenant, most)
end

local function enter(id, header, most)
  redis.call('ZADD', set_of(header), now, id)
  local queue, tenant = queue_of(header), header.tenant
  if header.state ~= 'waiting' then
    try(count_in_flight, header, 1)
  elseif not below_limit(queue, tenant, most) then
    redis.call('ZADD', turns_key(queue), 'inf', tenant)
  elseif not redis.call('ZSCORE', turns_key(queue), tenant) then
    join_round(queue, tenant)
  end
end

local function leave(id, header)
  redis.call('ZREM', set_of(header), id)
  if header.state ~= 'waiting' then
    try(count_in_flight, header, -1)
  elseif redis.call('EXISTS', set_of(header)) == 0 then
    redis.call('ZREM', turns_key(queue_of(header)), header.tenant)
  end
end

-- queues the tenant's first waiting job and returns its id; nil if its entry was deleted by hand
local function queue_next(queue, tenant)
  local set = waiting_set(queue, tenant)
  local id = redis.call('ZRANGE', set, '0', '0')[1]
  if not id then return nil end
  redis.call('ZREM', set, id)
  local header, size, payload = read('vqa:job:' .. id)
  if not header or header.state ~= 'waiting' or not is_id(id) then return nil end
  header.state = 'queued'
  enter(id, header, 0)
  update('vqa:job:' .. id, header, size, payload)
  return id
end

-- queues waiting jobs, tenant by tenant, until `target` jobs are queued; returns their ids, which the caller publishes
local function promote(queue, most)
  local turns, promoted = turns_key(queue), {}
  local room = math.min(PORTION, target(queue) - redis.call('ZCARD', 'vqa:queued:' .. queue))
  local last = last_turn(queue)
  -- also bounds the number of ids whose entries are gone
  for _ = 1, 2 * PORTION do
    if #promoted >= room then break end
    local tenant, turn = unpack(redis.call('ZRANGE', turns, '0', '0', 'WITHSCORES'))
    if not tenant or turn == 'inf' then break end
    -- removed first: a full Redis allows further writes to a script whose first write frees memory
    redis.call('ZREM', turns, tenant)
    if not below_limit(queue, tenant, most) then
      redis.call('ZADD', turns, 'inf', tenant)
    else
      local id = queue_next(queue, tenant)
      if id then table.insert(promoted, id) end
      last = last + 1
      if redis.call('EXISTS', waiting_set(queue, tenant)) == 1 then redis.call('ZADD', turns, last, tenant) end
    end
  end
  return promoted
end

-- promotes only when less than half of the target is queued, so that jobs are published in batches
local function refill(queue, most)
  if not is_bulk(queue) or redis.call('EXISTS', turns_key(queue)) == 0 then return {} end
  if 2 * redis.call('ZCARD', 'vqa:queued:' .. queue) >= target(queue) then return {} end
  return try(promote, queue, most) or {}
end
