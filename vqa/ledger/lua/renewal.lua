-- The verb by which workers renew their leases, every third of a lease.

local WORKERS_MS = 3600000
-- least ms between two counts of slots, which read all of `vqa:workers`
local COUNT_MS = 1000

-- counts the slots of living workers: of those that take jobs which name no model, and of each model's
local function count_slots(lease)
  local slots, listed = {[''] = 0}, redis.call('HGETALL', 'vqa:workers')
  for i = 2, #listed, 2 do
    local newline = string.find(listed[i], '\n', 1, true)
    -- a line that cannot be read counts for nothing
    try(function()
      -- later than now: the clock was set back since
      if math.abs(now - cjson.decode(string.sub(listed[i], 1, newline - 1)).seen) > tonumber(lease) then return end
      local about = cjson.decode(string.sub(listed[i], newline + 1))
      local own = tonumber(about.slots) or 0
      -- workers of earlier releases say nothing of both
      if about.takes_unnamed ~= false then slots[''] = slots[''] + own end
      for _, model in ipairs(about.models or {}) do
        if is_model(model) then slots['.' .. model] = (slots['.' .. model] or 0) + own end
      end
    end)
  end
  for suffix, count in pairs(slots) do redis.call('SET', 'vqa:capacity' .. suffix, count, 'PX', 10 * lease) end
end

-- seconds; longer than the longest VQA_MODEL_KEEP_S
local MODELS_S = 400 * 86400

-- notes that a model is served, and when its name was last `declared`: its worker was given it
local function note_served(model, declared)
  local before = try(function() return cjson.decode(redis.call('HGET', 'vqa:models', model)) end)
  declared = declared == '1' and now or type(before) == 'table' and before.declared or nil
  redis.call('HSET', 'vqa:models', model, cjson.encode({seen = now, declared = declared}))
  -- the sweep forgets models one by one; this is for a queue that nobody sweeps any more
  redis.call('EXPIRE', 'vqa:models', MODELS_S)
end

-- worker, its description of itself (JSON), lease in ms, the models that it serves (with spaces between) and '1' if their
-- names were given to it, then id and token of each lease; returns the ids it has lost
function verbs.renew(worker, about, lease, models, declared, ...)
  -- a full Redis allows further writes to a script whose first write frees memory, so that leases are still renewed
  redis.call('HDEL', 'vqa:workers', worker)
  local held = {...}
  local lost = {}
  for i = 1, #held, 2 do
    local id, token = held[i], held[i + 1]
    local key = KEYS[(i + 1) / 2]
    local header, size, payload = read(key)
    if not header or header.token ~= token then
      table.insert(lost, id)
    elseif header.state == 'leased' then
      redis.call('ZADD', set_of(header), now + lease, id)
    else
      -- the lease expired, but no other worker has taken the job: undo the expiry
      header.lost, header.history = header.lost - 1, header.history or {}
      table.remove(header.history)
      local before = header.history[#header.history]
      header.error = before and before.error
      if not before then header.history = nil end
      move(id, header, 'leased', tonumber(lease))
      update(key, header, size, payload)
    end
  end
  redis.call('HSET', 'vqa:workers', worker, cjson.encode({seen = now}) .. '\n' .. about)
  redis.call('PEXPIRE', 'vqa:workers', WORKERS_MS)
  for model in string.gmatch(models, '%S+') do try(note_served, model, declared) end
  local counted_ms_ago = 10 * lease - redis.call('PTTL', 'vqa:capacity')
  if counted_ms_ago < 0 or counted_ms_ago >= COUNT_MS then
    count_slots(lease)
  end
  return lost
end
