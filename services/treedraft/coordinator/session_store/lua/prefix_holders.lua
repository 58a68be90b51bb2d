-- How many of a prompt's leading pages each of some workers holds.
-- KEYS: the prefix set of each worker. ARGV: the pages, the first one first.
local counts = {}
for index, key in ipairs(KEYS) do
  local count = 0
  for _, page in ipairs(ARGV) do
    if redis.call('SISMEMBER', key, page) == 0 then
      break
    end
    count = count + 1
  end
  counts[index] = count
end
return counts
