-- Reads the workflows or cron entries whose wake_at has come, earliest first.
--
-- ARGV[1]: flows or crons. ARGV[2]: their clock. ARGV[3]: now, ms. ARGV[4]: most records.
-- Result: {version, record (JSON)} of each (msgpack).

local found = {}
for i, name in ipairs(call('ZRANGEBYSCORE', root .. ARGV[2], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  found[i] = call('HGET', root .. ARGV[1], name)
end
return found
