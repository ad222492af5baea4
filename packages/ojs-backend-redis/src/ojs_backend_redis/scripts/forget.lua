-- Forgets a worker that was not seen since, and logs the event.
--
-- ARGV[1]: the worker. ARGV[2]: seen before this instant, ms. ARGV[3]: the event (JSON).
-- Result: 1, or 0 if it was seen since or is already gone.

local seen = call('ZSCORE', root .. 'seen', ARGV[1])
if not seen or tonumber(seen) >= tonumber(ARGV[2]) then
  return 0
end
call('ZREM', root .. 'seen', ARGV[1])
call('HDEL', root .. 'workers', ARGV[1])
log('event', ARGV[3])
return 1
