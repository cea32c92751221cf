-- Tokens and jobs in flight of one API key. Each verb is atomic. All times are this server's, in ms.
--
-- KEYS[1]  hash of counts: for minute and day, the number of the current window, its tokens and the previous window's
-- KEYS[2]  hash of job -> reservation: tokens, the windows that they are counted in, and when it was made
-- KEYS[3]  sorted set of the same jobs by deadline

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local LENGTHS = {minute = 60000, day = 86400000}
-- least ms between two looks for the outcomes of more than a few jobs in flight
local LOOK_MS = 100
local FEW = 64
-- most reservations dropped by one call, so that Redis is not blocked
local MOST_DROPPED = 1000
-- part of the newest reservation in the average of how long they last
local NEWEST = 0.2

local verbs = {}

local function whole(number)
  return string.format('%.0f', number)
end

local function window(name)
  local length = LENGTHS[name]
  local found = redis.call('HMGET', KEYS[1], name, name .. '_current', name .. '_previous')
  local number, current, previous = tonumber(found[1]) or -1, tonumber(found[2]) or 0, tonumber(found[3]) or 0
  local present = math.floor(now / length)
  if number == present - 1 then
    current, previous = 0, current
  elseif number ~= present and number ~= present + 1 then
    current, previous = 0, 0
  end
  -- where the clock was set back across the border of two windows, the later one goes on
  if number ~= present + 1 then number = present end
  local left = math.min(length, (number + 1) * length - now)
  return {name = name, number = number, length = length, current = current, previous = previous, left = left}
end

local function used(of)
  return math.floor(of.previous * of.left / of.length) + of.current
end

local function save(of)
  redis.call('HSET', KEYS[1], of.name, whole(of.number),
    of.name .. '_current', whole(of.current), of.name .. '_previous', whole(of.previous))
  redis.call('PEXPIRE', KEYS[1], 2 * LENGTHS.day)
end

-- tokens that were used beyond what was reserved in the window `number` count now; a refund goes where they were
-- counted, if that still matters
local function correct(of, number, tokens)
  if tokens > 0 or number == of.number then
    of.current = math.max(0, of.current + tokens)
  elseif number == of.number - 1 then
    of.previous = math.max(0, of.previous + tokens)
  end
end

-- used_tokens: nil if not known; then the estimate stays
local function settle(minute, day, job, used_tokens)
  local reservation = redis.call('HGET', KEYS[2], job)
  redis.call('HDEL', KEYS[2], job)
  redis.call('ZREM', KEYS[3], job)
  if not reservation then return end
  local tokens, in_minute, in_day, since = string.match(reservation, '^(%d+) (%d+) (%d+) (%d+)$')
  if used_tokens then
    correct(minute, tonumber(in_minute), used_tokens - tokens)
    correct(day, tonumber(in_day), used_tokens - tokens)
  end
  local lasted, average = math.max(0, now - since), tonumber(redis.call('HGET', KEYS[1], 'lasts'))
  average = average and average + NEWEST * (lasted - average) or lasted
  redis.call('HSET', KEYS[1], 'lasts', whole(average))
end

-- whoever held these has vanished: their tokens stay counted
local function drop_overdue()
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, MOST_DROPPED)) do
    redis.call('HDEL', KEYS[2], job)
    redis.call('ZREM', KEYS[3], job)
  end
end

-- returns nil while the job is open, and false if its outcome does not tell
local function tokens_of(job)
  local outcome = redis.pcall('GET', 'celery-task-meta-' .. job)
  if type(outcome) ~= 'string' then return nil end
  local read, meta = pcall(cjson.decode, outcome)
  if not read or type(meta) ~= 'table' or type(meta.status) ~= 'string' then return false end
  -- a job that failed costs nothing
  if meta.status ~= 'SUCCESS' then return 0 end
  local usage = type(meta.result) == 'table' and meta.result.usage
  if type(usage) ~= 'table' then return false end
  return (tonumber(usage.prompt_tokens) or 0) + (tonumber(usage.completion_tokens) or 0)
end

-- settles jobs that have ended: accepted with 202 and not read yet, or answered a moment ago
local function settle_ended(minute, day)
  if redis.call('ZCARD', KEYS[3]) > FEW then
    local looked = tonumber(redis.call('HGET', KEYS[1], 'looked')) or 0
    if looked <= now and now - looked < LOOK_MS then return end
    redis.call('HSET', KEYS[1], 'looked', whole(now))
  end
  for _, job in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    local tokens = tokens_of(job)
    if tokens ~= nil then settle(minute, day, job, tokens or nil) end
  end
  save(minute)
  save(day)
end

-- one string: redis-py takes 8 us to read each member of a list
local function reply(verdict, minute, day)
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  return table.concat({verdict,
    whole(minute.previous), whole(minute.current), whole(minute.left),
    whole(day.previous), whole(day.current), whole(day.left),
    redis.call('ZCARD', KEYS[3]), whole(first[2] and first[2] - now or 0), redis.call('HGET', KEYS[1], 'lasts') or '0'},
    ' ')
end

local function refusal(minute, day, tokens, most)
  if most.flight > 0 and redis.call('ZCARD', KEYS[3]) >= most.flight then return 'flight' end
  if most.minute > 0 and used(minute) + tokens > most.minute then return 'minute' end
  if most.day > 0 and used(day) + tokens > most.day then return 'day' end
  return nil
end

-- job's id, tokens, ms until the deadline; limits of tokens a minute and a day and of jobs in flight, 0 for none
function verbs.reserve(job, tokens, span, most_minute, most_day, most_flight)
  drop_overdue()
  local minute, day = window('minute'), window('day')
  -- sent again after a lost reply
  if redis.call('HEXISTS', KEYS[2], job) == 1 then return reply('', minute, day) end
  tokens, span = tonumber(tokens), tonumber(span)
  local most = {minute = tonumber(most_minute), day = tonumber(most_day), flight = tonumber(most_flight)}
  if refusal(minute, day, tokens, most) then settle_ended(minute, day) end
  local refused = refusal(minute, day, tokens, most)
  if refused then return reply(refused, minute, day) end
  minute.current, day.current = minute.current + tokens, day.current + tokens
  save(minute)
  save(day)
  redis.call('ZADD', KEYS[3], now + span, job)
  redis.call('HSET', KEYS[2], job, table.concat(
    {whole(tokens), whole(minute.number), whole(day.number), whole(now)}, ' '))
  for _, key in ipairs({KEYS[2], KEYS[3]}) do
    if redis.call('PTTL', key) < span then redis.call('PEXPIRE', key, span) end
  end
  return reply('', minute, day)
end

-- job's id, tokens that it used
function verbs.settle(job, tokens)
  local minute, day = window('minute'), window('day')
  if redis.call('HEXISTS', KEYS[2], job) == 1 then
    settle(minute, day, job, tonumber(tokens))
    save(minute)
    save(day)
  end
  return reply('', minute, day)
end

function verbs.charge(tokens)
  local minute, day = window('minute'), window('day')
  minute.current, day.current = minute.current + tonumber(tokens), day.current + tonumber(tokens)
  save(minute)
  save(day)
  return reply('', minute, day)
end

function verbs.look()
  return reply('', window('minute'), window('day'))
end

return verbs[ARGV[1]](unpack(ARGV, 2))
