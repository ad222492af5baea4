-- Tells what this shard, which decides, has decided of a commit. One that waits for too long is given up.
--
-- ARGV[1]: the commit. ARGV[2]: how long it may wait, ms.
-- Result: 1 if it happens, 0 if it does not and never will, 2 if it is not decided.

if call('HEXISTS', root .. 'decided', ARGV[1]) == 1 then
  return 1
end
local stored = call('HGET', root .. 'staged', ARGV[1])
if not stored then
  return 0
end
local since, _, packed = unpack(unpack_(stored))
if now_ms() - since < tonumber(ARGV[2]) then
  return 2
end
release(ARGV[1], unpack_(packed)[1])
return 0
