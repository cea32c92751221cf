-- The open jobs, the dead letters and the batches. KEYS[i]: entries; ARGV[1]: the verb. Each verb is atomic; all times
-- are this server's, in milliseconds. `fair_share.lua`, `batches.lua`, `ledger.lua` and `sweep.lua` go on where this ends.
--
-- vqa:job:{id}            the header (JSON), a newline, the job as it was submitted
-- vqa:{state}:{lane}      sorted sets of ids: queued (since when), leased (until when), delayed (not before)
-- vqa:deadlines           sorted set of the ids of all open jobs by deadline
-- vqa:workers             hash of node name -> what it says of itself, with the time
-- vqa:dead:{id}           a dead letter: the same as an entry, with its reason; vqa:dead is their sorted set, by time
--
-- A header's token is drawn by whoever takes the job: only its holder may retry or close that attempt. An empty token
-- speaks for nobody's attempt: cancellation, closing what is past its deadline, giving up.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local verbs = {}

local function read(key)
  local entry = redis.call('GET', key)
  if not entry then return nil end
  local newline = string.find(entry, '\n', 1, true)
  return cjson.decode(string.sub(entry, 1, newline - 1)), string.sub(entry, newline + 1)
end

local function encode(header, payload)
  return cjson.encode(header) .. '\n' .. payload
end

local function write(key, header, payload)
  redis.call('SET', key, encode(header, payload))
end

local function dead_key(id)
  return 'vqa:dead:' .. id
end

local function waiting_set(lane, tenant)
  return 'vqa:waiting:' .. lane .. ':' .. tenant
end

local function set_of(header)
  if header.state == 'waiting' then return waiting_set(header.lane, header.tenant) end
  return 'vqa:' .. header.state .. ':' .. header.lane
end
