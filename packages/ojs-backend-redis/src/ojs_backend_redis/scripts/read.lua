-- Reads jobs by id.
--
-- ARGV: the ids
-- Result: a JSON array of the records, in the order asked; null for an id that no job has.

local found = {}
for i, id in ipairs(ARGV) do
  local job = load(id)
  found[i] = job and compose(job) or 'null'
end
return '[' .. concat(found, ',') .. ']'
