-- Finds where a page goes on: per index, how many members come before and including (instant, id), newest first.
--
-- ARGV[1]: the instant, ms. ARGV[2]: the id. ARGV[3..]: the indexes, named without the store's prefix.
-- Result: a number per index. Members of one instant are found by bisection: there may be very many.

local ranks = {}
for i = 3, #ARGV do
  local key = root .. ARGV[i]
  local low = call('ZCOUNT', key, '(' .. ARGV[1], '+inf')
  local high = low + call('ZCOUNT', key, ARGV[1], ARGV[1])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if call('ZREVRANGE', key, middle, middle)[1] >= ARGV[2] then
      low = middle + 1
    else
      high = middle
    end
  end
  ranks[i - 2] = low
end
return ranks
