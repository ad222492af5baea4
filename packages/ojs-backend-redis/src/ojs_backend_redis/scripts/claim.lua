-- Hands out available jobs: requests one after the other, queues left to right, jobs by score.
--
-- ARGV[1]: the requests (msgpack): {queues, count, now, default_lease_ms, default_timeout_ms, worker_id, lease_ms,
--   noted elsewhere}, the last three false where not given; times in ms
-- ARGV[2]: jobs after which no further request is served, so that Redis is not held up
-- ARGV[3]: bytes of records after which no further job is handed out, as the result has to arrive in time
-- Result, per request, two texts: a JSON array of the records handed out, and one of expired jobs met on the way, left
--   as they are; empty texts where there are none. Fewer than the requests if some were not served.
-- If the client dies: the jobs are out and nobody knows; they come back when their lease ends.

local EXPIRED_MAX = 100
local SLOT_MS, SLOTS, AHEAD_MAX = 100, 11, 100
local R_QUEUES, R_COUNT, R_NOW, R_DEFAULT_LEASE, R_DEFAULT_TIMEOUT, R_WORKER, R_LEASE, R_ELSEWHERE =
  1, 2, 3, 4, 5, 6, 7, 8

-- Notes that the worker was seen, unless another shard does; returns whether it may be given jobs.
local function touch_worker(id, now, elsewhere)
  if not id then
    return true
  end
  local stored = call('HGET', root .. 'workers', id)
  if not elsewhere then
    if not stored then
      call('HSET', root .. 'workers', id, pack({ now, 0, false, false }))
    end
    call('ZADD', root .. 'seen', now, id)
  end
  local directive = stored and unpack_(stored)[3]
  return not directive or directive == 'running'
end

-- The rate limit, as `ojs_core.rate` defines it: jobs handed out by slots of 100 ms, the newest first.
local function shift_window(queue, now)
  local slot, counts = math.floor(now / SLOT_MS), {}
  local known = queue[4] and queue[4] - slot <= AHEAD_MAX
  local first = known and queue[4] or slot
  local passed = math.min(SLOTS, math.max(0, slot - first))
  local spent = 0
  for i = 1, SLOTS do
    counts[i] = i > passed and known and queue[4 + i - passed] or 0
    spent = spent + counts[i]
  end
  return math.max(first, slot), counts, spent
end

local function claim_one(job, request)
  local was, h = job.h, copy(job.h)
  local now = request[R_NOW]
  local lease = request[R_LEASE] or was[VISIBILITY] or request[R_DEFAULT_LEASE]
  h[STATE], h[WORKER], h[STARTED], h[NEXT_RETRY] = 'active', request[R_WORKER], now, false
  h[VERSION], h[FENCE], h[ATTEMPT] = was[VERSION] + 1, was[FENCE] + 1, was[ATTEMPT] + 1
  h[LEASE], h[LEASE_EXPIRES] = lease, now + lease
  h[TIMEOUT_AT] = now + (was[TIMEOUT] or request[R_DEFAULT_TIMEOUT])
  h[WAKE] = math.min(h[LEASE_EXPIRES], h[TIMEOUT_AT])
  call('HSET', job_key .. job.id, 'h', pack(h))
  index(job.id, was, h, true)
  log_job('job.started', now, job.id, h, false, '{}')
  job.h = h
  return compose(job)
end

local drained = {}
local bytes, bytes_max = 0, tonumber(ARGV[3])

-- Claims from one queue into `found`, as many as `room`; returns how many.
local function take(name, request, room, found, expired)
  local key, taken, passed = root .. 'ready:' .. name, 0, {}
  while taken < room and not drained[name] and #passed < 2 * EXPIRED_MAX and bytes < bytes_max do
    local wanted = room - taken
    local popped = call('ZPOPMIN', key, wanted)
    drained[name] = #popped < 2 * wanted
    for i = 1, #popped, 2 do
      local enough = bytes >= bytes_max
      local job = not enough and load(popped[i])
      local expires = job and job.h[EXPIRES]
      local over = expires and expires <= request[R_NOW]
      -- No job: somebody deleted the record behind our back. Those behind it are handed out all the same.
      if enough or over or owner_of('j', popped[i]) then
        passed[#passed + 1] = popped[i + 1]
        passed[#passed + 1] = popped[i]
        if over and #expired < EXPIRED_MAX then
          expired[#expired + 1] = compose(job)
        end
      elseif job then
        local record = claim_one(job, request)
        found[#found + 1] = record
        taken = taken + 1
        bytes = bytes + #record
      end
    end
  end
  if #passed > 0 then
    for i = 1, #passed, 2 do
      call('ZADD', key, passed[i], passed[i + 1])
    end
    drained[name] = nil
  end
  return taken
end

local function serve(request)
  local found, expired = {}, {}
  if touch_worker(request[R_WORKER], request[R_NOW], request[R_ELSEWHERE]) then
    for _, name in ipairs(request[R_QUEUES]) do
      local room = request[R_COUNT] - #found
      if room == 0 then
        break
      end
      local queue = not drained[name] and queue_of(name)
      if queue and not queue[2] then
        if queue[3] then
          local slot, counts, spent = shift_window(queue, request[R_NOW])
          local taken = take(name, request, math.min(room, math.max(0, queue[3] - spent)), found, expired)
          if taken > 0 then
            counts[1] = counts[1] + taken
            put_queue(name, { queue[1], queue[2], queue[3], slot, unpack(counts) })
          end
        else
          take(name, request, room, found, expired)
        end
      end
    end
  end
  return found, expired
end

local function array(records)
  return #records > 0 and '[' .. concat(records, ',') .. ']' or ''
end

local answers, jobs, jobs_max = {}, 0, tonumber(ARGV[2])
for _, request in ipairs(unpack_(ARGV[1])) do
  if jobs >= jobs_max or bytes >= bytes_max then
    break
  end
  local found, expired = serve(request)
  jobs = jobs + #found + #expired
  answers[#answers + 1] = array(found)
  answers[#answers + 1] = array(expired)
end
return answers
