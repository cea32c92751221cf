-- Open jobs, dead letters and batches. All files of this folder are joined into one script, see ledger/commands.py.
-- ARGV[1] is the verb, KEYS are keys of job entries. Each verb is atomic. All times are this server's, in ms.
--
-- The script's body runs at each call. Building a function takes about 0.2 us, formatting a number as a command's
-- argument 1 us, encoding or decoding a header 4 us: rare verbs are therefore in files of their own, which are skipped.
--
-- vqa:job:{id}            entry of an open job: header (JSON, then spaces), newline, the job as submitted
-- vqa:{state}:{queue}     sorted sets of ids: queued by time, leased by end of lease, delayed by end of delay
-- vqa:deadlines           sorted set of the ids of all open jobs, by deadline
-- vqa:closed:{queue}:{s}  jobs that workers closed in ten seconds; s is when they began, in units of ten seconds
-- vqa:failed:{m}          hash of error code -> jobs that ended with it in the minute m
-- vqa:workers             hash of node name -> time of last renewal and the worker's description of itself
-- vqa:dead:{id}           dead letter: an entry with a reason; vqa:dead is the sorted set of their ids, by time
--
-- A queue is a lane, for the jobs that name no model, or a lane of one model: bulk, bulk.NAME (vqa/routing.py).
--
-- vqa:models              hash of served model -> when a worker has last served it, see models.lua
-- vqa:models:open         sorted set of the models that have jobs, or had some, by the latest acceptance
--
-- `take` writes the caller's token into the header; only that token may retry or close the attempt. With an empty
-- token, `close` needs no lease: for cancelled, overdue and lost jobs.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local verbs = {}

-- states of jobs that are neither waiting nor closed
local IN_FLIGHT = {'queued', 'leased', 'delayed'}
-- first bytes of an entry that are read: all of most entries, and the header of the others
local FIRST_BYTES, FIRST_RANGE = 4096, '4095'
-- the header of an entry that is not read at once is written alone: its length is a multiple of this
local HEADER_BYTES = 1024
-- ms by which a time may exceed what is possible before the clock counts as set back
local STEP_MS = 5000

local function encode(header, payload)
  local text = cjson.encode(header)
  if #text + #payload >= FIRST_BYTES then text = text .. string.rep(' ', HEADER_BYTES - #text % HEADER_BYTES) end
  return text .. '\n' .. payload
end

-- `size` is the header's, with its spaces. Payloads may be megabytes: a verb reads one only if it needs it
local function read_payload(key, size)
  return redis.call('GETRANGE', key, size + 1, '-1')
end

-- writes the header of an entry whose header has this size now, and the payload if it was read with the header; returns
-- the header as JSON
local function update(key, header, size, payload)
  local text = cjson.encode(header)
  if payload and #text + #payload < FIRST_BYTES then
    redis.call('SET', key, text .. '\n' .. payload)
  elseif #text <= size then
    redis.call('SETRANGE', key, '0', text .. string.rep(' ', size - #text))
  else
    redis.call('SET', key, encode(header, payload or read_payload(key, size)))
  end
  return text
end

-- A lease or a delay that ends later than its span allows is over, too: the clock was set back since it began.
local function is_over(header, ends)
  return ends <= now or ends > now + (header.span or math.huge) + STEP_MS
end

local function dead_key(id)
  return 'vqa:dead:' .. id
end

local function waiting_set(queue, tenant)
  return 'vqa:waiting:' .. queue .. ':' .. tenant
end

local function queue_of(header)
  return header.model and header.lane .. '.' .. header.model or header.lane
end

local function is_bulk(queue)
  return string.sub(queue, 1, 4) == 'bulk'
end

-- the part of a lane's queues that name a model; '' for the others
local function suffix_of(queue)
  return string.sub(queue, is_bulk(queue) and 5 or 12)
end

local function set_of(header)
  if header.state == 'waiting' then return waiting_set(queue_of(header), header.tenant) end
  return 'vqa:' .. header.state .. ':' .. queue_of(header)
end
