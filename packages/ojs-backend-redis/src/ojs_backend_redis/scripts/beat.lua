-- Takes a heartbeat: notes the worker, and renews the leases it names.
--
-- ARGV[1]: msgpack {worker, report (JSON; false: another shard notes the worker), event of its first beat (JSON), now,
--   lease_ms or false, job ids}; times in ms
-- Result: {first_seen_at, beats, directive or ""}, the records renewed, the named jobs that were not; the last two are
--   JSON arrays, empty texts where there are none. Or {"busy", the commit that has locked one of the jobs}.
-- If the client dies: the leases are renewed, or nothing happened.

local worker, report, event, now, lease_ms, ids = unpack(unpack_(ARGV[1]))

for _, id in ipairs(ids) do
  local owner = owner_of('j', id)
  if owner then
    return { 'busy', owner }
  end
end

local stored = report and call('HGET', root .. 'workers', worker)
local known = stored and unpack_(stored) or { now, 0, false }
local first_seen, beats, directive = known[1], known[2] + 1, known[3]
if report then
  call('HSET', root .. 'workers', worker, pack({ first_seen, beats, directive, report }))
  call('ZADD', root .. 'seen', now, worker)
  if beats == 1 then
    log('event', event)
  end
end

local function extend(job)
  local was, h = job.h, copy(job.h)
  local lease = lease_ms or was[LEASE] or 0
  h[VERSION], h[LEASE], h[LEASE_EXPIRES] = was[VERSION] + 1, lease, now + lease
  h[WAKE] = was[TIMEOUT_AT] and math.min(now + lease, was[TIMEOUT_AT]) or now + lease
  call('HSET', job_key .. job.id, 'h', pack(h))
  index(job.id, was, h)
  log_job('job.heartbeat', now, job.id, h, false, '{}')
  job.h = h
end

local extended, others = {}, {}
for _, id in ipairs(ids) do
  local job = load(id)
  if job and job.h[STATE] == 'active' and (not job.h[WORKER] or job.h[WORKER] == worker) then
    extend(job)
    extended[#extended + 1] = compose(job)
  elseif job then
    others[#others + 1] = compose(job)
  end
end

local function array(records)
  return #records > 0 and '[' .. concat(records, ',') .. ']' or ''
end

return { { first_seen, beats, directive or '' }, array(extended), array(others) }
