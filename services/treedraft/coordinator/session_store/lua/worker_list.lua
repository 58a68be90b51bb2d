-- Returns the workers and drops from the index those whose time is up. The keys
-- of the workers share the index's hash tag, and so its slot in a cluster.
-- KEYS: index of workers
-- ARGV: what the keys of workers begin with
local found = {'OK'}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local kept = redis.call('HMGET', ARGV[1] .. id, 'registration', 'report')
  if kept[1] then
    table.insert(found, kept[1])
    table.insert(found, kept[2])
  else
    redis.call('SREM', KEYS[1], id)
  end
end
return found
