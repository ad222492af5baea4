-- Applies commits one after the other, each whole or not at all; later ones see the earlier ones.
--
-- ARGV[1]: who asks, not told of the work this makes available
-- ARGV[2]: places in queues that the commits may need, at most
-- ARGV[3]: the commits (msgpack)
-- Result, per commit: the place before the first one that its inserts took, alone or before {record after, state before}
--   of each transition; or {"refused", {kind, position, record found or ""}...}; position counts from 0. Of a conflict
--   with an insert of the same commit the record found is the position of that insert. Or {"busy", a commit over several
--   shards that has locked what it is about}: then neither it nor what is behind it was done.
-- If the client dies: all of it happened, or nothing. All guards but those of inserts make a repeat harmless; a repeated
--   insert is refused with the record of the first.

local places = tonumber(ARGV[2])
local answers = {}
for i, commit in ipairs(unpack_(ARGV[3])) do
  local owner = busy_with(commit)
  if owner then
    answers[i] = { 'busy', owner }
    break
  end
  local refused, jobs = check(commit)
  if not refused then
    take_places(places)
    places = 0
    refused = apply(commit, jobs)
  end
  answers[i] = refused
end
add_minutes()
ring(woken, ARGV[1])
return answers
