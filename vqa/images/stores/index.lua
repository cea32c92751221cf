-- The index of images in a folder or bucket: when each may be deleted. Times are Redis's clock, in ms.
--
-- vqa:images        reference -> when it may be deleted
-- vqa:images:going  reference -> when its deletion began; it is in one of the two sets, never in both
--
-- Whoever writes an image enters it here first, so an object without an entry is never made; whoever deletes one moves
-- it to the second set first. So an entry that a writer finds in the first set, or makes, cannot be deleted under it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local verbs = {}

-- ms after which a deletion has ended, or whoever began it has
local STALE = tonumber(ARGV[2])

-- for each image: '1' or '' (whether it is entered if unknown), ms to keep, reference. Returns for each: `new`, `known`,
-- `absent` (unknown and not entered), or `going`: it is being deleted, ask again
function verbs.keep()
  local states = {}
  for i = 3, #ARGV, 3 do
    local enter, ms, reference = ARGV[i] == '1', ARGV[i + 1], ARGV[i + 2]
    local going = redis.call('ZSCORE', KEYS[2], reference)
    if going and enter and now - going > STALE then
      redis.call('ZREM', KEYS[2], reference)
      going = false
    end
    local state = 'known'
    if going then
      state = enter and 'going' or 'absent'
    elseif not redis.call('ZSCORE', KEYS[1], reference) then
      state = enter and 'new' or 'absent'
    end
    if state == 'known' or state == 'new' then redis.call('ZADD', KEYS[1], 'GT', now + ms, reference) end
    table.insert(states, state)
  end
  return states
end

-- limit: moves images that are due to the second set, and takes over deletions that somebody began and did not end, or
-- that failed: these last, so that images that cannot be deleted keep no others. Returns when this was, and the references
function verbs.claim(limit)
  local claimed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit)
  for _, reference in ipairs(claimed) do redis.call('ZREM', KEYS[1], reference) end
  local stale = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - STALE, 'LIMIT', 0, limit - #claimed)
  for _, reference in ipairs(stale) do table.insert(claimed, reference) end
  for _, reference in ipairs(claimed) do redis.call('ZADD', KEYS[2], now, reference) end
  return {now, claimed}
end

-- when it was claimed, reference: whether it is still to be deleted by the caller, who has no more time than half of
-- what makes a deletion stale
function verbs.may_delete(claimed, reference)
  local began = redis.call('ZSCORE', KEYS[2], reference)
  return began and tonumber(began) == tonumber(claimed) and now - began < STALE / 2 and 1 or 0
end

-- when it was claimed, reference
function verbs.deleted(claimed, reference)
  local began = redis.call('ZSCORE', KEYS[2], reference)
  if began and tonumber(began) == tonumber(claimed) then redis.call('ZREM', KEYS[2], reference) end
  return 1
end

return verbs[ARGV[1]](ARGV[3], ARGV[4])
