-- The verbs of jobs and dead letters.

-- attempts of a job that has lost a worker; in the last one it runs alone in its worker
local LOST_ATTEMPTS = 3
-- newest attempts that a job's history keeps
local HISTORY = 20
-- most dead letters dropped by one call, so that Redis is not blocked
local MOST_DROPPED = 1000
-- how long counts of closed jobs are kept; producer/prediction/reading.py reads those of five minutes
local CLOSED_MS = 330000
-- how long counts of errors are kept; producer/monitor/queue_reader.py reads those of five minutes
local FAILED_MS = 360000

-- span: how many ms a lease or a delay lasts
local function move(id, header, state, span)
  redis.call('ZREM', set_of(header), id)
  header.state, header.span = state, span
  redis.call('ZADD', set_of(header), now + (span or 0), id)
end

local function open(key, id, header, payload, tenant_most)
  redis.call('ZADD', 'vqa:deadlines', header.deadline, id)
  if header.model then redis.call('ZADD', 'vqa:models:open', now, header.model) end
  enter(id, header, tonumber(tenant_most))
  -- last: if a set cannot be written to, there is no entry that is in none
  redis.call('SET', key, encode(header, payload))
end

-- adds the current attempt, which ended with `error`, to the history
local function record_attempt(header, error)
  local history = header.history or {}
  local past = {attempt = header.attempt, worker = header.worker, taken = header.taken, ended = now, error = error}
  -- from which the attempt's span in a trace has its id
  past.token = header.token
  table.insert(history, past)
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

-- whether a lane has as many open jobs as it may, of all models together. All lanes together rarely have
local function is_full(lane, most)
  local open_jobs = redis.call('ZCARD', 'vqa:deadlines')
  if open_jobs < most then return false end
  local interactive = 0
  for _, queue in ipairs(all_queues()) do
    for _, state in ipairs(is_bulk(queue) and {} or IN_FLIGHT) do
      interactive = interactive + redis.call('ZCARD', 'vqa:' .. state .. ':' .. queue)
    end
  end
  return (lane == 'interactive' and interactive or open_jobs - interactive) >= most
end

-- id, outcome's key, lane, payload, timeout in ms, reply list ('' for none), limit of open jobs per lane, tenant and
-- batch ('' for none), limit of a tenant's jobs in flight (0 for none), '1' if the job has a message already: then it
-- is queued without waiting, even if its batch was cancelled; '1' if its text is streamed, W3C traceparent ('' for none),
-- the model that answers ('' for any), the model that the job names if that is another ('')
function verbs.accept(
  id, outcome, lane, payload, timeout, reply, most, tenant, batch, tenant_most, there, stream, trace, model, share_of
)
  local known = redis.call('EXISTS', KEYS[1]) == 1 and read(KEYS[1])
  if known then return known.state == 'waiting' and 'waiting' or 'open' end
  if redis.call('EXISTS', outcome, dead_key(id)) > 0 then return 'closed' end
  if batch ~= '' and there ~= '1' and STOPPED[redis.pcall('HGET', batch_key(batch), 'status')] then return 'over' end
  if is_full(lane, tonumber(most)) then return 'full' end
  local header = {lane = lane, accepted = now, deadline = now + timeout, attempt = 0, lost = 0, reply = reply}
  if model and model ~= '' then header.model = model end
  if share_of and share_of ~= '' then header.share_of = share_of end
  local waits = there ~= '1' and must_wait(queue_of(header), tenant, tonumber(tenant_most))
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
  return {'taken', text, job, tostring(now), refill(queue_of(header), tonumber(tenant_most))}
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

-- counts a job that a worker closed. A key for each ten seconds, as INCR takes half as long as HINCRBY; its name has the
-- seconds without their last digit, as Redis says them. What fails here must not keep a job from being closed
local function count_closed(queue)
  local key = 'vqa:closed:' .. queue .. ':' .. string.sub(time[1], 1, -2)
  if redis.pcall('INCR', key) == 1 then redis.call('PEXPIRE', key, CLOSED_MS) end
end

-- counts a job that ended with an error, by minute and code, of which there are few (vqa/errors.py)
local function count_error(tally)
  local code = string.match(tally, '^{"code": "([%w_]+)"')
  if not code then return end
  local key = 'vqa:failed:' .. math.floor(time[1] / 60)
  if redis.pcall('HINCRBY', key, code, 1) == 1 then redis.pcall('PEXPIRE', key, FAILED_MS) end
end

-- id, token, outcome's key, outcome as encoded by Celery's result backend, its time to live in ms, the reply list's in
-- ms; for a dead letter its reason (else ''), error, time to live in ms and the limit of dead letters. close_if:
-- 'overdue' closes only a job past its deadline, 'last' only a job whose last attempt's lease has expired. Then what
-- its batch counts (JSON: code, worker, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens), and the
-- limit of a tenant's jobs in flight. Returns 0 if the job was not closed, else 1 plus the number of dropped dead
-- letters; the promoted ids, which the caller publishes, and their queue
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
  if token ~= '' then
    count_closed(queue_of(header))
  elseif header.state == 'leased' then
    redis.call('PUBLISH', 'vqa:dropped', id)
  end
  count_error(tally)
  if header.batch then header.code = try(leave_batch, header.batch, id, cjson.decode(tally)) end
  local dropped = 0
  if reason ~= '' then
    if header.state == 'leased' then record_attempt(header, error) end
    dropped = add_dead_letter(id, header, payload, reason, dead_ttl, most)
  end
  return {1 + dropped, refill(queue_of(header), tonumber(tenant_most)), queue_of(header)}
end
