-- Reads the jobs whose wake_at has come, earliest first; of one instant by place, then by id.
--
-- ARGV[1]: now, ms. ARGV[2]: most jobs. ARGV[3]: bytes of records after which no further one is read
-- Result: a JSON array of the records.

local found, bytes, bytes_max = {}, 0, tonumber(ARGV[3])
for _, member in ipairs(call('ZRANGEBYSCORE', root .. 'wake', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  if bytes >= bytes_max then
    break
  end
  local job = load(string.sub(member, 13))
  if job then
    found[#found + 1] = compose(job)
    bytes = bytes + #found[#found]
  else
    -- Somebody deleted the record behind our back. What is due behind it must be found.
    call('ZREM', root .. 'wake', member)
  end
end
return '[' .. concat(found, ',') .. ']'
