-- Reads the numbers of a queue.
--
-- ARGV[1]: the queue. ARGV[2..]: the states to count.
-- Result: the queue's record (msgpack), the number of jobs in each state, and the minutes (field, value, ...); nil if
--   the queue was never seen.

local stored = call('HGET', queues_key, ARGV[1])
if not stored then
  return false
end
local counts = {}
for i = 2, #ARGV do
  counts[i - 1] = call('ZCARD', root .. 'in:' .. ARGV[i] .. ':' .. ARGV[1])
end
return { stored, counts, call('HGETALL', root .. 'minutes:' .. ARGV[1]) }
