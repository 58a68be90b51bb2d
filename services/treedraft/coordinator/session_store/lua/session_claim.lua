-- Takes over a session that nobody else holds, or steals it, and raises its epoch.
-- KEYS: session, tokens, lease
-- ARGV: owner, lease ms, time to live ms, '1' to steal
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'SESSION_NOT_FOUND'}
end
if redis.call('HEXISTS', KEYS[1], 'finish_reason') == 1 then
  return {'SESSION_FINISHED'}
end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[1] and ARGV[4] ~= '1' then
  return {'LEASE_HELD'}
end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'request', 'epoch', 'placement', 'finish_reason')
return {'OK', kept[1], kept[2], ARGV[1], redis.call('GET', KEYS[2]), kept[3], kept[4]}
