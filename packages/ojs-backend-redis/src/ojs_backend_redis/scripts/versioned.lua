-- Reads the workflows or cron entries whose wake_at has come, earliest first.
--
-- ARGV[1]: flows or crons. ARGV[2]: their clock. ARGV[3]: now, ms. ARGV[4]: most records. ARGV[5]: bytes of records
--   after which no further one is read
-- Result: {version, record (JSON)} of each (msgpack).

local found, bytes, bytes_max = {}, 0, tonumber(ARGV[5])
for i, name in ipairs(call('ZRANGEBYSCORE', root .. ARGV[2], '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  if bytes >= bytes_max then
    break
  end
  local record = call('HGET', root .. ARGV[1], name)
  found[i] = record
  bytes = bytes + #record
end
return found
