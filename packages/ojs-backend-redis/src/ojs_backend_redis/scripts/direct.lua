-- Tells a worker what to do.
--
-- ARGV[1]: the worker. ARGV[2]: running, quiet, terminate, or empty for nothing.
-- Result: like an entry of workers.lua; nil if there is no such worker.

local stored = call('HGET', root .. 'workers', ARGV[1])
if not stored then
  return false
end
local worker = unpack_(stored)
worker[3] = ARGV[2] ~= '' and ARGV[2]
local record = pack(worker)
call('HSET', root .. 'workers', ARGV[1], record)
return { ARGV[1], call('ZSCORE', root .. 'seen', ARGV[1]), record }
