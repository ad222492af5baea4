-- Ends what prepare.lua began: applies the part of a commit for this shard, or drops it.
--
-- ARGV[1]: who asks, not told of the work this makes available. ARGV[2]: the commit.
-- ARGV[3]: decide (apply, and note that the commit happens), apply, or drop
-- Result: as of commit.lua for one commit, 1 if it was dropped; nil if there is nothing (any more).
-- If the client dies: it is decided, or it is not. Others end what is left.

local stored = call('HGET', root .. 'staged', ARGV[2])
if not stored then
  return false
end
local _, places, packed = unpack(unpack_(stored))
local commit = unpack_(packed)[1]
local refused, jobs = check_named(commit)
if refused and ARGV[3] ~= 'drop' then
  return redis.error_reply('OJS a locked job was changed')
end
release(ARGV[2], commit)
if ARGV[3] == 'drop' then
  return 1
end
take_places(places)
local result = apply(commit, jobs)
if ARGV[3] == 'decide' then
  call('HSET', root .. 'decided', ARGV[2], fmt('%d', now_ms()))
end
add_minutes()
ring(woken, ARGV[1])
return result
