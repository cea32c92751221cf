-- The verbs of jobs and dead letters.

-- attempts of a job that has lost a worker; in the last one it runs alone in its worker
local LOST_ATTEMPTS = 3
-- newest attempts that a job's history keeps
local HISTORY = 20
local WORKERS_MS = 3600000
-- most dead letters dropped by one call, so that Redis is not blocked
local MOST_DROPPED = 1000
-- least ms between two counts of slots, which read all of `vqa:workers`
local COUNT_MS = 1000

-- span: how many ms a lease or a delay lasts
local function move(id, header, state, span)
  redis.call('ZREM', set_of(header), id)
  header.state, header.span = state, span
  redis.call('ZADD', set_of(header), now + (span or 0), id)
end

local function open(key, id, header, payload, tenant_most)
  redis.call('ZADD', 'vqa:deadlines', header.deadline, id)
  enter(id, header, tonumber(tenant_most))
  -- last: if a set cannot be written to, there is no entry that is in none
  redis.call('SET', key, encode(header, payload))
end

-- adds the current attempt, which ended with `error`, to the history
local function record_attempt(header, error)
  local history = header.history or {}
  table.insert(history,
    {attempt = header.attempt, worker = header.worker, taken = header.taken, ended = now, error = error})
  if #history > HISTORY then table.remove(history, 1) end
  header.history = history
end

local function keep_images(payload, ms)
  -- user data may look like a reference; then that image is only kept longer than necessary
  for reference in string.gmatch(payload, '"(sha256:%x+)"') do
    redis.call('PEXPIRE', 'vqa:image:' .. reference, ms, 'GT')
    -- in a folder or bucket (vqa/images/stores/index.lua); a damaged index must not keep a job from being closed
    redis.pcall('ZADD', 'vqa:images', 'XX', 'GT', now + ms, reference)
  end
end

-- returns how many of the oldest dead letters were dropped to respect the limit
local function add_dead_letter(id, header, payload, reason, ttl, most)
  header.state, header.reason, header.dead, header.token = 'dead', reason, now, nil
  redis.call('SET', dead_key(id), encode(header, payload), 'PX', ttl)
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', 'vqa:dead', '-inf', now - ttl, 'LIMIT', 0, MOST_DROPPED)) do
    redis.call('ZREM', 'vqa:dead', each)
  end
  redis.call('ZADD', 'vqa:dead', now, id)
  redis.call('PEXPIRE', 'vqa:dead', ttl)
  keep_images(payload, ttl)
  local over = math.min(redis.call('ZCARD', 'vqa:dead') - most, MOST_DROPPED)
  if over <= 0 then return 0 end
  local oldest = redis.call('ZRANGE', 'vqa:dead', 0, over - 1)
  for _, each in ipairs(oldest) do
    redis.call('DEL', dead_key(each))
    redis.call('ZREM', 'vqa:dead', each)
  end
  return over
end

local function open_jobs(lane)
  local interactive = 0
  for _, state in ipairs(IN_FLIGHT) do
    interactive = interactive + redis.call('ZCARD', 'vqa:' .. state .. ':interactive')
  end
  if lane == 'interactive' then return interactive end
  return redis.call('ZCARD', 'vqa:deadlines') - interactive
end

-- id, outcome's key, lane, payload, timeout in ms, reply list ('' for none), limit of open jobs per lane, tenant and
-- batch ('' for none), limit of a tenant's jobs in flight (0 for none), '1' if the job has a message already: then it
-- is queued without waiting, even if its batch was cancelled; '1' if its text is streamed, W3C traceparent ('' for none)
function verbs.accept(
  id, outcome, lane, payload, timeout, reply, most, tenant, batch, tenant_most, there, stream, trace
)
  local known = redis.call('EXISTS', KEYS[1]) == 1 and read(KEYS[1])
  if known then return known.state == 'waiting' and 'waiting' or 'open' end
  if redis.call('EXISTS', outcome, dead_key(id)) > 0 then return 'closed' end
  if batch ~= '' and there ~= '1' and STOPPED[redis.pcall('HGET', batch_key(batch), 'status')] then return 'over' end
  if open_jobs(lane) >= tonumber(most) then return 'full' end
  local waits = there ~= '1' and must_wait(lane, tenant, tonumber(tenant_most))
  local header = {lane = lane, accepted = now, deadline = now + timeout, attempt = 0, lost = 0, reply = reply}
  header.state = waits and 'waiting' or 'queued'
  if lane == 'bulk' or tenant ~= '' then header.tenant = tenant end
  if batch ~= '' then header.batch = batch end
  if stream == '1' then header.stream = true end
  if trace and trace ~= '' then header.trace = trace end
  open(KEYS[1], id, header, payload, tenant_most)
  if batch ~= '' then try(join_batch, batch, id, timeout) end
  return waits and 'waiting' or 'accepted'
end

-- id, outcome's key, worker, token, lease in ms, '1' if nothing else runs in the worker, limit of a tenant's jobs in
-- flight. A repeated call with the same token, after a lost reply, counts no further attempt. With a bulk job, also
-- returns the ids that were promoted, which the caller publishes
function verbs.take(id, outcome, worker, token, lease, by_itself, tenant_most)
  local header, size, payload = read(KEYS[1])
  if not header then return {redis.call('EXISTS', outcome, dead_key(id)) > 0 and 'closed' or 'unknown'} end
  if header.token ~= token or header.state ~= 'leased' then
    if header.state ~= 'queued' then return {'held'} end
    if header.deadline <= now then return {'overdue'} end
    local last = header.lost > 0 and header.attempt + 1 >= LOST_ATTEMPTS
    if last and by_itself ~= '1' then return {'alone'} end
    header.attempt, header.alone = header.attempt + 1, last or nil
    header.worker, header.token, header.taken = worker, token, now
  end
  local job = payload or read_payload(KEYS[1], size)
  move(id, header, 'leased', tonumber(lease))
  local text = update(KEYS[1], header, size, payload)
  return {'taken', text, job, tostring(now), refill(header.lane, tonumber(tenant_most))}
end

local function living_slots(lease)
  local slots, listed = 0, redis.call('HGETALL', 'vqa:workers')
  for i = 2, #listed, 2 do
    local newline = string.find(listed[i], '\n', 1, true)
    -- a line that cannot be read counts for nothing
    slots = slots + (try(function()
      -- later than now: the clock was set back since
      if math.abs(now - cjson.decode(string.sub(listed[i], 1, newline - 1)).seen) > tonumber(lease) then return 0 end
      return tonumber(cjson.decode(string.sub(listed[i], newline + 1)).slots) or 0
    end) or 0)
  end
  return slots
end

-- worker, its description of itself (JSON), lease in ms, then id and token of each lease; returns the ids it has lost
function verbs.renew(worker, about, lease, ...)
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
  local counted_ms_ago = 10 * lease - redis.call('PTTL', 'vqa:capacity')
  if counted_ms_ago < 0 or counted_ms_ago >= COUNT_MS then
    redis.call('SET', 'vqa:capacity', living_slots(lease), 'PX', 10 * lease)
  end
  return lost
end

-- id, token, delay in ms, error ('' keeps the last one), how the attempt counts: '0' not at all, '1' as an attempt,
-- 'lost' as an attempt that lost its worker. Returns 1, also if an equal call, whose reply was lost, has already done
-- it; else 0
function verbs.retry(id, token, delay, error, charge)
  local header, size, payload = read(KEYS[1])
  if not header then return 0 end
  if header.token ~= token or header.state ~= 'leased' then return header.retried == token and 1 or 0 end
  if error ~= '' then
    record_attempt(header, error)
    header.error = error
  end
  if charge == '0' then header.attempt = header.attempt - 1 end
  if charge == 'lost' then header.lost = header.lost + 1 end
  header.retried, header.token = token, nil
  if tonumber(delay) > 0 then
    move(id, header, 'delayed', tonumber(delay))
  else
    move(id, header, 'queued')
  end
  update(KEYS[1], header, size, payload)
  return 1
end

local function push_reply(list, id, ttl)
  redis.call('RPUSH', list, id)
  -- bounded, as a client may never read it; it finds the other ids by polling
  redis.call('LTRIM', list, '-100000', '-1')
  redis.call('PEXPIRE', list, ttl)
end

-- id, token, outcome's key, outcome as encoded by Celery's result backend, its time to live in ms, the reply list's in
-- ms; for a dead letter its reason (else ''), error, time to live in ms and the limit of dead letters. close_if:
-- 'overdue' closes only a job past its deadline, 'last' only a job whose last attempt's lease has expired. Then what
-- its batch counts (JSON: code, worker, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens), and the
-- limit of a tenant's jobs in flight. Returns 0 if the job was not closed, else 1 plus the number of dropped dead
-- letters; and the promoted ids, which the caller publishes
function verbs.close(
  id, token, outcome_key, outcome, ttl, reply_ttl, reason, error, dead_ttl, most, close_if, tally, tenant_most
)
  local header, size, payload = read(KEYS[1])
  -- an equal call, whose reply was lost, has already closed it
  if not header then return {redis.pcall('GET', outcome_key) == outcome and 1 or 0, {}} end
  -- an expired lease is valid until another worker takes the job
  if token ~= '' and header.token ~= token then return {0, {}} end
  if close_if == 'overdue' then
    local deadline = redis.call('ZSCORE', 'vqa:deadlines', id)
    if not deadline or tonumber(deadline) > now then return {0, {}} end
  end
  if close_if == 'last' then
    local ends = header.state == 'leased' and header.alone and redis.call('ZSCORE', set_of(header), id)
    if not ends or not is_over(header, tonumber(ends)) then return {0, {}} end
  end
  if reason ~= '' then payload = payload or read_payload(KEYS[1], size) end
  redis.call('DEL', KEYS[1])
  if header.stream then redis.call('DEL', 'vqa:stream:' .. id) end
  try(leave, id, header)
  try(redis.call, 'ZREM', 'vqa:deadlines', id)
  redis.call('SET', outcome_key, outcome, 'PX', outcome_ttl(header.batch, ttl))
  redis.call('PUBLISH', outcome_key, outcome)
  if header.reply ~= '' then try(push_reply, header.reply, id, reply_ttl) end
  if token == '' and header.state == 'leased' then redis.call('PUBLISH', 'vqa:dropped', id) end
  if header.batch then header.code = try(leave_batch, header.batch, id, cjson.decode(tally)) end
  local dropped = 0
  if reason ~= '' then
    if header.state == 'leased' then record_attempt(header, error) end
    dropped = add_dead_letter(id, header, payload, reason, dead_ttl, most)
  end
  return {1 + dropped, refill(header.lane, tonumber(tenant_most))}
end
