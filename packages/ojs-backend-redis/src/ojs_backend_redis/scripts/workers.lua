-- Lists workers, longest silent first.
--
-- ARGV[1]: seen before this instant, ms (exclusive: with a bracket; +inf: all). ARGV[2]: most workers.
-- Result, per worker: id, last_seen_at, record (msgpack: first_seen_at, beats, directive, report).

local found = {}
local seen = call('ZRANGEBYSCORE', root .. 'seen', '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #seen, 2 do
  found[#found + 1] = { seen[i], seen[i + 1], call('HGET', root .. 'workers', seen[i]) }
end
return found
