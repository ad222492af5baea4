-- Reads the jobs whose wake_at has come, earliest first; of one instant by place, then by id.
--
-- ARGV[1]: now, ms. ARGV[2]: most jobs.
-- Result: a JSON array of the records.

local found = {}
for _, member in ipairs(call('ZRANGEBYSCORE', root .. 'wake', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local job = load(string.sub(member, 13))
  found[#found + 1] = job and compose(job)
end
return '[' .. concat(found, ',') .. ']'
