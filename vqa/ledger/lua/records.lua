-- Open jobs, dead letters and batches. This file, damage.lua, fair_share.lua, batches.lua, ledger.lua and sweep.lua are
-- joined into one script. ARGV[1] is the verb, KEYS are keys of job entries. Each verb is atomic. All times are this
-- server's, in ms.
--
-- vqa:job:{id}            entry of an open job: header (JSON), newline, the job as submitted
-- vqa:{state}:{lane}      sorted sets of ids: queued by time, leased by end of lease, delayed by end of delay
-- vqa:deadlines           sorted set of the ids of all open jobs, by deadline
-- vqa:workers             hash of node name -> time of last renewal and the worker's description of itself
-- vqa:dead:{id}           dead letter: an entry with a reason; vqa:dead is the sorted set of their ids, by time
--
-- `take` writes the caller's token into the header; only that token may retry or close the attempt. With an empty
-- token, `close` needs no lease: for cancelled, overdue and lost jobs.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local verbs = {}

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
