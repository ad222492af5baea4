-- Checks the part of a commit for this shard, and locks and keeps it until it is decided. Nothing of it is visible.
--
-- ARGV[1]: the commit, as the shards name it. ARGV[2]: places in queues that its part may need, at most.
-- ARGV[3]: its part (msgpack, a list of one). ARGV[4]: 1 to check only, as it is refused elsewhere
-- Result: "ready"; {"refused", ...} as of commit.lua; or {"busy", the commit that has locked what this one is about}.
-- If the client dies: the locks stay until somebody finds them and asks the shard that decides.

local commit = unpack_(ARGV[3])[1]
local owner = busy_with(commit)
if owner then
  return { 'busy', owner }
end
local refused = check(commit)
if refused or ARGV[4] == '1' then
  return refused or 'ready'
end
each_thing(commit, function(kind, name)
  call('HSET', locks_key, kind .. name, ARGV[1])
end)
call('HSET', root .. 'staged', ARGV[1], pack({ now_ms(), tonumber(ARGV[2]), ARGV[3] }))
return 'ready'
