-- Removes the oldest events: those before an instant, and those beyond the newest few.
--
-- ARGV[1]: the instant, ms. ARGV[2]: how many of the newest to keep. ARGV[3]: most events to remove.
-- Result: how many were removed.

local CHUNK = 500
local before, keep, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local length = call('XLEN', events_key)
local gone, after = 0, '-'
while gone < limit and gone < length do
  local entries = call('XRANGE', events_key, after, '+', 'COUNT', math.min(CHUNK, limit - gone))
  local stayed = false
  for _, entry in ipairs(entries) do
    local at = tonumber(string.match(entry[2][2], '^%[(%-?%d+)'))
    if length - gone <= keep and at >= before then
      stayed = true
      break
    end
    gone = gone + 1
    after = '(' .. entry[1]
  end
  if stayed or #entries == 0 then
    break
  end
end
if gone > 0 then
  call('XTRIM', events_key, 'MAXLEN', length - gone)
end
return gone
