-- Pauses or resumes a queue, which comes into being if it was never seen.
--
-- ARGV[1]: who asks, not told of the work this makes available. ARGV[2]: the queue. ARGV[3]: now, ms.
-- ARGV[4]: 1 to pause, 0 to resume. ARGV[5]: the event of a change (JSON)
-- Result: the queue's record (msgpack), and 1 if this changed it.

local name, paused = ARGV[2], ARGV[4] == '1'
local now = tonumber(ARGV[3])
local queue = make_queue(name, now)
if (queue[2] and true or false) == paused then
  return { pack(queue), 0 }
end
queue[2] = paused and now
put_queue(name, queue)
log('event', ARGV[5])
if not paused then
  ring({ [name] = true }, ARGV[1])
end
return { pack(queue), 1 }
