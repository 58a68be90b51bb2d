-- Renews a lease, and sets a field of the session on the way if one is named.
-- KEYS: session, tokens, lease
-- ARGV: epoch, owner, lease ms, time to live ms, field or '', value
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'finish_reason')
if not kept[1] then
  return {'SESSION_NOT_FOUND'}
end
if tonumber(kept[1]) < tonumber(ARGV[1]) then
  return {'SESSION_NOT_FOUND'}
end
if kept[1] ~= ARGV[1] or kept[2] ~= ARGV[2] then
  return {'STALE_EPOCH', kept[1]}
end
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[5], ARGV[6])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if not kept[3] then
  redis.call('SET', KEYS[3], kept[2], 'PX', ARGV[3])
end
return {'OK'}
