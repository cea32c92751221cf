-- Verbs of dead letters, and counts.

-- uncounts a dead letter that is reopened; false if the batch accepts no more jobs
local function rejoin_batch(batch, id, code, timeout)
  if not join_batch(batch, id, timeout) then return false end
  count_failed(batch_key(batch), code, -1)
  return true
end

-- id, lane, raw message, reason, time to live in ms, limit of dead letters: keeps a malformed message as a dead letter
function verbs.dead_letter_message(id, lane, raw, reason, ttl, most)
  local header = {lane = lane, accepted = now, deadline = now, attempt = 0, lost = 0, reply = ''}
  return add_dead_letter(id, header, raw, reason, ttl, most)
end

-- id, outcome's key, ms that images are kept after a deadline, limit of a tenant's jobs in flight: makes a dead letter
-- an open job again, with its history and for the same model. Returns the queue on which the caller publishes it
function verbs.reopen(id, outcome, margin, tenant_most)
  if redis.call('EXISTS', KEYS[1]) == 1 then return {'open'} end
  local header, size, payload = read_dead(dead_key(id))
  if not header then return {'unknown'} end
  payload = payload or read_payload(dead_key(id), size)
  local lane, timeout = header.lane, header.deadline - header.accepted
  redis.call('DEL', dead_key(id), outcome)
  redis.call('ZREM', 'vqa:dead', id)
  local again = {lane = lane, accepted = now, deadline = now + timeout, attempt = 0, lost = 0}
  again.reply, again.history, again.trace = header.reply, header.history, header.trace
  again.tenant = header.tenant or (lane == 'bulk' and '' or nil)
  again.model, again.share_of = header.model, header.share_of
  again.state = must_wait(queue_of(again), again.tenant, tonumber(tenant_most)) and 'waiting' or 'queued'
  local batch = header.batch
  if batch and try(rejoin_batch, batch, id, header.code or '', timeout) then again.batch = batch end
  open(KEYS[1], id, again, payload, tenant_most)
  keep_images(payload, timeout + margin)
  return {again.state == 'waiting' and 'waiting' or queue_of(again)}
end

-- numbers of waiting, queued, leased and delayed jobs of all models: four of the interactive lane, then four of the bulk
-- lane
function verbs.counts()
  local counts, waiting = {0, 0, 0, 0, 0, 0, 0, 0}, redis.call('ZCARD', 'vqa:deadlines')
  for _, queue in ipairs(all_queues()) do
    local first = is_bulk(queue) and 5 or 1
    for number, state in ipairs(IN_FLIGHT) do
      local count = redis.call('ZCARD', 'vqa:' .. state .. ':' .. queue)
      counts[first + number] = counts[first + number] + count
      waiting = waiting - count
    end
  end
  counts[5] = math.max(0, waiting)
  return counts
end
