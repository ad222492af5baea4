-- Finds commits over several shards that somebody has begun and not ended.
--
-- ARGV[1]: only those that are older, ms
-- Result: those that wait here for their end, or were decided here.

local now, least, left = now_ms(), tonumber(ARGV[1]), {}
for _, key in ipairs({ 'staged', 'decided' }) do
  local found = call('HGETALL', root .. key)
  for i = 1, #found, 2 do
    local since = tonumber(found[i + 1]) or unpack_(found[i + 1])[1]
    if now - since >= least then
      left[#left + 1] = found[i]
    end
  end
end
return left
