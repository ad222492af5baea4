-- What the scripts share; it stands in front of each of them.
--
-- KEYS[1]: the key of the store, or of one of its shards, "{PREFIX}:store". All other keys are made from it and lie in
--   the same slot of a cluster.
-- KEYS[2]: of a shard, ":locks".
--
--   :store           hash     schema; seq: the last place given out in any queue; never reset
--   :j:ID            hash     one job: h hot fields (msgpack array), c the record as inserted without them (JSON), other
--                             fields of the record by their names (JSON; `errors`: msgpack array of JSON)
--   :ready:QUEUE     zset     available jobs: (100 - priority) * 2^44 + seq -> id
--   :in:STATE:QUEUE  zset     jobs of one queue in one state: created_at, ms -> id; its size is the count
--   :wake            zset     wake_at, ms -> seq (12 hex digits), id
--   :dead            zset     dead letters: discarded_at, ms -> id
--   :held:WORKER     zset     jobs with that worker_id: created_at, ms -> id
--   :mark:FP:STATE   zset     jobs with that fingerprint in one state: created_at, ms -> id
--   :queues          hash     name -> created_at, paused_at, max_per_second, slot and counts of the window (msgpack)
--   :minutes:QUEUE   hash     executions of the last hour: MINUTE:c completed, :f failed, :d ms they took, :w ms they waited
--   :workers         hash     id -> first_seen_at, beats, directive, report (msgpack); :seen zset last_seen_at -> id
--   :crons           hash     name -> version, record (msgpack); :cronwake zset wake_at -> name
--   :flows           hash     id -> version, record (msgpack); :flowwake zset wake_at -> id
--   :events          stream   job: an event about a job; event: any other (JSON arrays, see eventlog.py)
--   :bell            channel  origin, then the queues that got work, one a line
--
-- Only where there are several shards, for commits over several of them (spanning.py):
--
--   :locks           hash     j, f, w or c, then the id of a job, fingerprint, id of a workflow or cron entry -> the commit
--                             that is about to change it
--   :staged          hash     commit -> when, ms; places; its part for this shard (msgpack). Checked, and not yet applied
--   :decided         hash     commit -> when, ms. It happens
--
-- Texts (names, worker ids) are JSON without the quotes, so that they go into a record as they are. Absent is false.
-- Numbers are integers below 2^53. A script checks everything before its first write: Redis does not roll back.

local call = redis.call
local pack, unpack_ = cmsgpack.pack, cmsgpack.unpack
local fmt, find = string.format, string.find
local concat = table.concat
local root = string.sub(KEYS[1], 1, -6)
local job_key = root .. 'j:'
local locks_key = KEYS[2]
local locked = locks_key and call('EXISTS', locks_key) == 1

-- The hot fields, in the order of layout.py.
local STATE, QUEUE, TYPE, CREATED, PRIORITY, VERSION, FENCE, SEQ, ATTEMPT, WAKE, EXPIRES, ENQUEUED, STARTED, WORKER,
  LEASE, LEASE_EXPIRES, TIMEOUT_AT, NEXT_RETRY, COMPLETED, CANCELLED, DISCARDED, DEAD, FINGERPRINT, WORKFLOW, TIMEOUT,
  VISIBILITY =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26
-- 27 to 30 are only handed through: workflow_step, requeues, retry_delay_ms, advanced.
local TRACE, HOT = 31, 31

-- How a hot field goes into the record. A text is closed by a quote; TRACE is for events only.
local LABELS = {
  ',"state":"', ',"queue":"', ',"type":"', ',"created_at":', ',"priority":', ',"version":', ',"fence":', ',"seq":',
  ',"attempt":', ',"wake_at":', ',"expires_at":', ',"enqueued_at":', ',"started_at":', ',"worker_id":"',
  ',"lease_ms":', ',"lease_expires_at":', ',"timeout_at":', ',"next_retry_at":', ',"completed_at":',
  ',"cancelled_at":', ',"discarded_at":', ',"dead":', ',"fingerprint":"', ',"workflow_id":"', ',"timeout_ms":',
  ',"visibility_timeout_ms":', ',"workflow_step":', ',"requeues":', ',"retry_delay_ms":', ',"advanced":',
}
local TERMINAL = { completed = true, cancelled = true, discarded = true }
local ERRORS_KEPT = 20
local HOUR_MINUTES = 60

-- Returns a job {id, h, c, named}, or nil.
local function load(id)
  local flat = call('HGETALL', job_key .. id)
  if #flat == 0 then
    return nil
  end
  local job = { id = id }
  for i = 1, #flat, 2 do
    local name = flat[i]
    if name == 'h' then
      job.h = unpack_(flat[i + 1])
    elseif name == 'c' then
      job.c = flat[i + 1]
    else
      job.named = job.named or {}
      job.named[name] = flat[i + 1]
    end
  end
  return job
end

-- Returns a copy of hot fields, made in one piece: growing a table costs more than filling it.
local function copy(h)
  return { unpack(h, 1, HOT) }
end

local parts = {}

-- Returns the record as JSON. A field that is named twice counts as it is named last.
local function compose(job)
  local h, n = job.h, 1
  parts[1] = job.c
  for i = 1, TRACE - 1 do
    local value = h[i]
    if value then
      parts[n + 1] = LABELS[i]
      if value == true then
        parts[n + 2] = 'true'
        n = n + 2
      elseif type(value) == 'number' then
        parts[n + 2] = fmt('%d', value)
        n = n + 2
      else
        parts[n + 2] = value
        parts[n + 3] = '"'
        n = n + 3
      end
    end
  end
  if job.named then
    for name, value in pairs(job.named) do
      if name == 'errors' then
        value = '[' .. concat(unpack_(value), ',') .. ']'
      end
      parts[n + 1] = ',"' .. name .. '":'
      parts[n + 2] = value
      n = n + 2
    end
  end
  parts[n + 1] = '}'
  return concat(parts, '', 1, n + 1)
end

local function wake_member(h, id)
  return fmt('%012x', h[SEQ]) .. id
end

-- Brings the indexes of a job from what they are for the hot fields `was` to what they are for `h`; either may be nil:
-- the job is new, or removed. `popped`: it was taken out of its queue already.
local function index(id, was, h, popped)
  local state, queue = h and h[STATE], h and h[QUEUE]
  if was then
    local from, at = was[STATE], was[QUEUE]
    local moved = from ~= state or at ~= queue
    if moved then
      call('ZREM', root .. 'in:' .. from .. ':' .. at, id)
    end
    if from == 'available' and not popped then
      call('ZREM', root .. 'ready:' .. at, id)
    end
    if was[WAKE] and not (h and h[WAKE] and h[SEQ] == was[SEQ]) then
      call('ZREM', root .. 'wake', wake_member(was, id))
    end
    if was[WORKER] and not (h and h[WORKER] == was[WORKER]) then
      call('ZREM', root .. 'held:' .. was[WORKER], id)
    end
    if was[FINGERPRINT] and (moved or not (h and h[FINGERPRINT] == was[FINGERPRINT])) then
      call('ZREM', root .. 'mark:' .. was[FINGERPRINT] .. ':' .. from, id)
    end
    if was[DEAD] and not (h and h[DEAD]) then
      call('ZREM', root .. 'dead', id)
    end
  end
  if h then
    if not was or was[STATE] ~= state or was[QUEUE] ~= queue then
      call('ZADD', root .. 'in:' .. state .. ':' .. queue, h[CREATED], id)
    end
    if state == 'available' then
      call('ZADD', root .. 'ready:' .. queue, (100 - h[PRIORITY]) * 17592186044416 + h[SEQ], id)
    end
    if h[WAKE] then
      call('ZADD', root .. 'wake', h[WAKE], wake_member(h, id))
    end
    if h[WORKER] and not (was and was[WORKER] == h[WORKER]) then
      call('ZADD', root .. 'held:' .. h[WORKER], h[CREATED], id)
    end
    if h[FINGERPRINT] then
      call('ZADD', root .. 'mark:' .. h[FINGERPRINT] .. ':' .. state, h[CREATED], id)
    end
    if h[DEAD] then
      call('ZADD', root .. 'dead', h[DISCARDED] or 0, id)
    end
  end
end

-- Queues, each read once per call.

local queues_key = root .. 'queues'
local queues = {}

-- Returns the record of a queue, or false if it was never seen.
local function queue_of(name)
  local queue = queues[name]
  if queue == nil then
    local stored = call('HGET', queues_key, name)
    queue = stored and unpack_(stored)
    queues[name] = queue
  end
  return queue
end

local function put_queue(name, queue)
  queues[name] = queue
  call('HSET', queues_key, name, pack(queue))
end

local function make_queue(name, now)
  if not queue_of(name) then
    put_queue(name, { now, false, false })
  end
  return queues[name]
end

-- Events.

local events_key = root .. 'events'
local COUNT_PER_US, COUNT_MAX = 32, 32767
local ID_MAX = 13 + 1 + 6
local last_entry

-- Adds to the log. With several shards the first entry of a call is numbered by the microsecond, so that the logs can be
-- read as one (merged_log.py); those behind it follow.
local function log(field, event)
  if not locks_key then
    local id = call('XADD', events_key, '*', field, event)
    if #id > ID_MAX then
      -- The clock is behind the last entry, and a million have followed in its millisecond. The count has 20 bits in the
      -- number of an event; what is beyond goes into the next millisecond.
      call('XDEL', events_key, id)
      call('XADD', events_key, fmt('%d-0', string.match(id, '%d+') + 1), field, event)
    end
    return
  end
  if not last_entry then
    local now = call('TIME')
    local us = tonumber(now[2])
    local id = fmt('%s%03d-%d', now[1], math.floor(us / 1000), us % 1000 * COUNT_PER_US)
    if not redis.pcall('XADD', events_key, id, field, event).err then
      last_entry = id
      return
    end
    -- The clock went back, or another call had the same microsecond.
    last_entry = call('XREVRANGE', events_key, '+', '-', 'COUNT', 1)[1][1]
  end
  -- The count has 15 bits in the number of an event; what is beyond goes into the next millisecond.
  local ms, count = string.match(last_entry, '(%d+)-(%d+)')
  count = count + 1
  last_entry = count > COUNT_MAX and fmt('%d-0', ms + 1) or fmt('%s-%d', ms, count)
  call('XADD', events_key, last_entry, field, event)
end

-- Adds an event about a job to the log. `facts`: JSON object of what only the decision knows.
local function log_job(kind, at, id, h, started, facts)
  local started_at, lease = started or h[STARTED], h[LEASE_EXPIRES]
  log('job', fmt(
    '[%d,"%s","%s","%s","%s","%s",%d,%d,%s,%s,%s,%s,%s,%s]',
    at, kind, id, h[QUEUE], h[TYPE], h[STATE], h[ATTEMPT], h[PRIORITY],
    h[WORKER] and '"' .. h[WORKER] .. '"' or 'null',
    started_at and fmt('%d', started_at) or 'null',
    lease and fmt('%d', lease) or 'null',
    h[WORKFLOW] and '"' .. h[WORKFLOW] .. '"' or 'null',
    h[TRACE] and '"' .. h[TRACE] .. '"' or 'null',
    facts
  ))
end

-- The doorbell.

-- Tells all servers of queues (keys of the table) that got work.
local function ring(woken, origin)
  if next(woken) then
    local names = { origin }
    for name in pairs(woken) do
      names[#names + 1] = name
    end
    call('PUBLISH', root .. 'bell', concat(names, '\n'))
  end
end

-- Locks.

-- Returns the commit that has locked a thing, if one has.
local function owner_of(kind, name)
  return locked and call('HGET', locks_key, kind .. name)
end

local function now_ms()
  local now = call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
