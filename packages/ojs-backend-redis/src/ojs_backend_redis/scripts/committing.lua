-- What a commit is made of, how it is checked, and how it is applied; it stands in front of the scripts that do so.
--
-- A commit (msgpack, see packing.py): {inserts, transitions, removals, workflows, cron, events}, false where there are
-- none; where it is the part of a commit for one of several shards, also {what must not be here, jobs that come from
-- another shard}.

-- Positions in a transition.
local T_ID, T_EXPECTED, T_TO, T_AT, T_VERSION, T_WORKER, T_FENCE, T_HOT, T_NAMED, T_ERROR, T_EVENTS, T_WAKE, T_MEMBER =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
-- Positions in an insert.
local I_ID, I_COLD, I_HOT, I_HOLD, I_LIMIT, I_EVENTS, I_ERRORS, I_NAMED, I_AT = 1, 2, 3, 4, 5, 6, 7, 8, 9
-- Positions in what must not be here: the insert of another shard it is about, its id, fingerprint and hold.
local A_INSERT, A_ID, A_FINGERPRINT, A_HOLD = 1, 2, 3, 4

local woken, sums = {}, {}
local last_place = 0

local function guard_holds(t, h)
  return find(t[T_EXPECTED], h[STATE], 1, true)
    and (not t[T_VERSION] or t[T_VERSION] == h[VERSION])
    and (not t[T_FENCE] or t[T_FENCE] == h[FENCE])
    and (not t[T_WORKER] or not h[WORKER] or t[T_WORKER] == h[WORKER])
end

-- Returns the hot fields after a transition, its place aside.
local function after(t, was)
  local h = copy(was)
  local changes = t[T_HOT]
  for i = 1, #changes, 2 do
    h[changes[i]] = changes[i + 1]
  end
  h[STATE] = t[T_TO]
  h[VERSION] = was[VERSION] + 1
  if TERMINAL[t[T_TO]] then
    h[WAKE] = was[WORKFLOW] and t[T_MEMBER] or not was[WORKFLOW] and t[T_WAKE]
  else
    h[WAKE] = t[T_WAKE]
    if h[EXPIRES] and not (h[WAKE] and h[WAKE] < h[EXPIRES]) then
      h[WAKE] = h[EXPIRES]
    end
  end
  return h
end

-- Returns the id of a job that a hold conflicts with, if there is one. `staged` are the jobs as the parts of the commit
-- so far leave them (h = false: removed), `marked` their ids by fingerprint.
local function holder(fingerprint, hold, staged, marked)
  local states, since = hold[1], hold[2]
  local ids = marked[fingerprint] or {}
  local above = since and '(' .. fmt('%d', since) or '-inf'
  for i = 1, #states do
    local key = root .. 'mark:' .. fingerprint .. ':' .. states[i]
    -- What is staged no longer counts as stored: look behind it.
    for _, id in ipairs(call('ZRANGEBYSCORE', key, above, '+inf', 'LIMIT', 0, #ids + 1)) do
      if not staged[id] then
        return id
      end
    end
  end
  for _, id in ipairs(ids) do
    local h = staged[id].h
    if h and h[FINGERPRINT] == fingerprint and (not since or h[CREATED] > since) then
      for i = 1, #states do
        if states[i] == h[STATE] then
          return id
        end
      end
    end
  end
end

-- Returns the record of a job that stands in the way of an insert, or the position of the insert it comes from.
local function found_as(id, staged)
  local change = staged[id]
  if not change then
    return compose(load(id))
  end
  local job = change.job
  return change.position or compose({ id = id, h = change.h, c = job.c, named = job.named })
end

local function refuse(answer, kind, position, found)
  answer = answer or { 'refused' }
  answer[#answer + 1] = { kind, position - 1, found or '' }
  return answer
end

local function stored_version(key, name)
  local stored = call('HGET', root .. key, name)
  return stored and unpack_(stored)[1] or 0
end

local function stage(staged, marked, id, fingerprint, change)
  if fingerprint then
    marked[fingerprint] = marked[fingerprint] or {}
    table.insert(marked[fingerprint], id)
  end
  staged[id] = change
end

-- Returns what stands against the transitions and removals of a commit (nil: nothing), the jobs they name, by id, and the
-- jobs as they leave them: by id, and the ids by fingerprint.
local function check_named(commit)
  local refused
  local jobs, staged, marked = {}, {}, {}
  for i, t in ipairs(commit[2] or {}) do
    local job = load(t[T_ID])
    if job and guard_holds(t, job.h) then
      job.after = after(t, job.h)
      jobs[job.id] = job
      stage(staged, marked, job.id, job.h[FINGERPRINT], { h = job.after, job = job })
    else
      refused = refuse(refused, 'transition', i, job and compose(job))
    end
  end
  for i, removal in ipairs(commit[3] or {}) do
    local id = removal[1]
    local job = not (staged[id] and not staged[id].h) and (jobs[id] or load(id))
    local h = job and (job.after or job.h)
    if job and h[VERSION] == removal[2] then
      jobs[id] = job
      stage(staged, marked, id, job.h[FINGERPRINT], { h = false, job = job })
    else
      refused = refuse(refused, 'removal', i, job and compose(job))
    end
  end
  return refused, jobs, staged, marked
end

-- Returns the kind of conflict that an insert meets and the id of the job that has its id or fingerprint, if there is one.
local function meets(id, fingerprint, hold, staged, marked)
  local change = id and staged[id]
  if change and change.h or id and not change and call('EXISTS', job_key .. id) == 1 then
    return 'id', id
  end
  local found = hold and holder(fingerprint, hold, staged, marked)
  return found and 'hold', found
end

-- Returns what stands against a commit (nil: nothing), and the jobs its transitions and removals name, by id.
local function check(commit)
  local refused, jobs, staged, marked = check_named(commit)
  for i, write in ipairs(commit[4] or {}) do
    if stored_version('flows', write[1]) ~= write[3] then
      refused = refuse(refused, 'workflow', i)
    end
  end
  local cron = commit[5]
  if cron and stored_version('crons', cron[1]) ~= cron[3] then
    refused = refuse(refused, 'cron', 1)
  end
  -- An insert meets the jobs as the other parts of its commit leave them, and the inserts before it.
  for _, new in ipairs(commit[8] or {}) do
    local h = new[I_HOT]
    stage(staged, marked, new[I_ID], h[FINGERPRINT], { h = h, job = { c = new[I_COLD] } })
  end
  for _, absent in ipairs(commit[7] or {}) do
    local kind, found = meets(absent[A_ID], absent[A_FINGERPRINT], absent[A_HOLD], staged, marked)
    if kind then
      refused = refuse(refused, kind, absent[A_INSERT] + 1, found_as(found, staged))
    end
  end
  local inserts = commit[1] or {}
  for i, new in ipairs(inserts) do
    local id, fingerprint = new[I_ID], new[I_HOT][FINGERPRINT]
    local kind, found = meets(id, fingerprint, new[I_HOLD], staged, marked)
    if kind then
      refused = refuse(refused, kind, i, found_as(found, staged))
    elseif #inserts > 1 then
      stage(staged, marked, id, fingerprint, { h = new[I_HOT], position = i - 1 })
    end
  end
  return refused, jobs
end

-- Calls `visit` with all that a commit changes, or relies on, as locks name it: what it is, and its id or fingerprint.
local function each_thing(commit, visit)
  for _, new in ipairs(commit[1] or {}) do
    visit('j', new[I_ID])
    if new[I_HOT][FINGERPRINT] then
      visit('f', new[I_HOT][FINGERPRINT])
    end
  end
  for _, t in ipairs(commit[2] or {}) do
    visit('j', t[T_ID])
  end
  for _, removal in ipairs(commit[3] or {}) do
    visit('j', removal[1])
  end
  for _, write in ipairs(commit[4] or {}) do
    visit('w', write[1])
  end
  if commit[5] then
    visit('c', commit[5][1])
  end
  for _, absent in ipairs(commit[7] or {}) do
    if absent[A_ID] then
      visit('j', absent[A_ID])
    end
    if absent[A_HOLD] then
      visit('f', absent[A_FINGERPRINT])
    end
  end
  for _, new in ipairs(commit[8] or {}) do
    visit('j', new[I_ID])
  end
end

-- Forgets the part of a commit that waits here for its end, and unlocks what it is about.
local function release(name, commit)
  call('HDEL', root .. 'staged', name)
  each_thing(commit, function(kind, thing)
    call('HDEL', locks_key, kind .. thing)
  end)
end

-- Returns the commit that has locked something this one is about, if there is one.
local function busy_with(commit)
  local owner = false
  if locked then
    each_thing(commit, function(kind, name)
      owner = owner or owner_of(kind, name)
    end)
  end
  return owner
end

local function next_place()
  last_place = last_place + 1
  return last_place
end

-- Notes an execution that ended: executions completed, failed, ms they took, ms they waited.
local function note_execution(was, h, at, completed)
  local key = h[QUEUE] .. '\n' .. fmt('%d', math.floor(at / 60000))
  local sum = sums[key] or { 0, 0, 0, 0 }
  sums[key] = sum
  if completed then
    sum[1] = sum[1] + 1
    sum[3] = sum[3] + at - was[STARTED]
    sum[4] = sum[4] + was[STARTED] - (was[ENQUEUED] or was[STARTED])
  else
    sum[2] = sum[2] + 1
  end
end

local function swap(t, job)
  local was, h, key = job.h, job.after, job_key .. job.id
  if h[STATE] == 'available' then
    h[SEQ] = next_place()
    woken[h[QUEUE]] = true
  end
  local named = job.named or {}
  job.named = named
  local fields = { 'HSET', key, 'h', pack(h) }
  local changes = t[T_NAMED]
  for i = 1, #changes, 2 do
    local name, value = changes[i], changes[i + 1]
    if value then
      named[name] = name == 'errors' and pack(value) or value
      fields[#fields + 1] = name
      fields[#fields + 1] = named[name]
    elseif named[name] then
      named[name] = nil
      call('HDEL', key, name)
    end
  end
  if t[T_ERROR] then
    local errors = named.errors and unpack_(named.errors) or {}
    errors[#errors + 1] = t[T_ERROR]
    if #errors > ERRORS_KEPT then
      table.remove(errors, 1)
    end
    named.error, named.errors = t[T_ERROR], pack(errors)
    fields[#fields + 1] = 'error'
    fields[#fields + 1] = named.error
    fields[#fields + 1] = 'errors'
    fields[#fields + 1] = named.errors
  end
  call(unpack(fields))
  index(job.id, was, h)
  if h[QUEUE] ~= was[QUEUE] then
    make_queue(h[QUEUE], t[T_AT])
  end
  if was[STATE] == 'active' and was[STARTED] and (h[STATE] == 'completed' or t[T_ERROR]) then
    note_execution(was, h, t[T_AT], h[STATE] == 'completed')
  end
  for i, event in ipairs(t[T_EVENTS]) do
    log_job(event[1], t[T_AT], job.id, h, was[STARTED], event[2])
  end
  job.h = h
end

local function insert(new)
  local id, h = new[I_ID], new[I_HOT]
  local name = h[QUEUE]
  if h[STATE] == 'available' then
    h[SEQ] = next_place()
    woken[name] = true
  end
  call('HSET', job_key .. id, 'c', new[I_COLD], 'h', pack(h), unpack(new[I_NAMED]))
  if new[I_ERRORS] then
    call('HSET', job_key .. id, 'errors', pack(new[I_ERRORS]))
  end
  index(id, nil, h)
  local queue = make_queue(name, new[I_AT])
  if new[I_LIMIT] and new[I_LIMIT] ~= queue[3] then
    queue[3] = new[I_LIMIT]
    put_queue(name, queue)
  end
  for _, event in ipairs(new[I_EVENTS] or {}) do
    log('job', event)
  end
end

-- Puts a workflow or cron entry {key, record or false, expected version, wake_at or false}.
local function put_versioned(key, clock, write)
  local name, record, wake = write[1], write[2], write[4]
  if record then
    call('HSET', root .. key, name, pack({ write[3] + 1, record }))
  else
    call('HDEL', root .. key, name)
  end
  if record and wake then
    call('ZADD', root .. clock, wake, name)
  else
    call('ZREM', root .. clock, name)
  end
end

local function apply(commit, jobs)
  local changed = {}
  for i, t in ipairs(commit[2] or {}) do
    local job = jobs[t[T_ID]]
    local before = job.h[STATE]
    swap(t, job)
    changed[i] = { compose(job), before }
  end
  for _, removal in ipairs(commit[3] or {}) do
    call('DEL', job_key .. removal[1])
    index(removal[1], jobs[removal[1]].h, nil)
  end
  local place = last_place
  for _, new in ipairs(commit[1] or {}) do
    insert(new)
  end
  for _, new in ipairs(commit[8] or {}) do
    insert(new)
  end
  for _, write in ipairs(commit[4] or {}) do
    put_versioned('flows', 'flowwake', write)
  end
  if commit[5] then
    put_versioned('crons', 'cronwake', commit[5])
  end
  for _, event in ipairs(commit[6] or {}) do
    log('event', event)
  end
  if #changed == 0 then
    return place
  end
  table.insert(changed, 1, place)
  return changed
end

local KINDS = { 'c', 'f', 'd', 'w' }

-- Adds up the executions that ended; a new minute pushes the old ones out.
local function add_minutes()
  for key, sum in pairs(sums) do
    local at = find(key, '\n', 1, true)
    local minutes, minute = root .. 'minutes:' .. string.sub(key, 1, at - 1), string.sub(key, at + 1)
    local fresh = call('HEXISTS', minutes, minute .. ':c') == 0
    for i, kind in ipairs(KINDS) do
      if sum[i] ~= 0 or kind == 'c' then
        call('HINCRBY', minutes, minute .. ':' .. kind, sum[i])
      end
    end
    if fresh then
      for _, field in ipairs(call('HKEYS', minutes)) do
        if tonumber(string.sub(field, 1, -3)) <= tonumber(minute) - HOUR_MINUTES then
          call('HDEL', minutes, field)
        end
      end
    end
  end
end

-- Takes places in queues for all that follows; what is not used is never used.
local function take_places(places)
  if places > 0 then
    last_place = call('HINCRBY', KEYS[1], 'seq', places) - places
  end
end
