-- Verbs that look for damage and mend it.

-- lease of a job of an earlier release whose place among the leased ones was lost
local RESTORED_LEASE_MS = 30000

-- KEYS are entries: returns for each what is wrong with it, or ''. Changes nothing
function verbs.flaws()
  local found = {}
  for i, key in ipairs(KEYS) do
    local entry = read_head(key)
    local header, rest
    if type(entry) == 'string' then header, rest = parse(entry) end
    if header and not is_open(header) then header, rest = nil, 'its header has no valid state' end
    found[i] = is_wrong_type(entry) and 'it is not a string' or entry and not header and rest or ''
  end
  return found
end

-- a command that fails on another type, by type
local PROBES = {
  zset = {'ZCARD'}, hash = {'HGET', 'nothing'}, list = {'LRANGE', 0, 0}, string = {'GET'}, set = {'SCARD'},
  stream = {'XLEN'},
}

local function has_wrong_type(kind, key)
  local command, first, last = unpack(PROBES[kind])
  if last then return is_wrong_type(redis.pcall(command, key, first, last)) end
  if first then return is_wrong_type(redis.pcall(command, key, first)) end
  return is_wrong_type(redis.pcall(command, key))
end

-- a type for each of KEYS: returns those of the keys that have another one. Changes nothing
function verbs.wrong_types(...)
  local wrong = {}
  for i, kind in ipairs({...}) do
    if has_wrong_type(kind, KEYS[i]) then table.insert(wrong, KEYS[i]) end
  end
  return wrong
end

-- a type for each of KEYS: sets those aside that have another one. Returns their number, and the notes of everything
-- that was set aside since the last call
function verbs.mend(...)
  local wrong = 0
  for i, kind in ipairs({...}) do
    local key = KEYS[i]
    if has_wrong_type(kind, key) then
      wrong = wrong + 1
      redis.call('RENAME', key, 'vqa:damaged:' .. key)
      redis.call('PEXPIRE', 'vqa:damaged:' .. key, DAMAGED_MS)
      local why = key .. ' is not a ' .. kind .. '; it is kept as vqa:damaged:' .. key
      keep_damaged('damaged-' .. string.sub(redis.sha1hex(key), 1, 12), '', why, why)
    end
  end
  local notes = redis.call('LRANGE', 'vqa:damaged', 0, -1)
  redis.call('DEL', 'vqa:damaged')
  return {wrong, notes}
end

-- ids: returns open jobs to the sets that they are missing from, after a set was set aside
function verbs.restore(...)
  for _, id in ipairs({...}) do
    local header = read('vqa:job:' .. id)
    if header then
      redis.call('ZADD', 'vqa:deadlines', 'NX', header.deadline, id)
      if header.model then redis.call('ZADD', 'vqa:models:open', 'NX', now, header.model) end
      if header.state == 'waiting' then
        local queue, tenant = queue_of(header), header.tenant
        if not redis.call('ZSCORE', turns_key(queue), tenant) then join_round(queue, tenant) end
        redis.call('ZADD', set_of(header), 'NX', header.accepted, id)
      else
        -- a worker that holds it renews its lease meanwhile
        local lease = header.state == 'leased' and (header.span or RESTORED_LEASE_MS) or 0
        redis.call('ZADD', set_of(header), 'NX', now + lease, id)
      end
    end
  end
end
