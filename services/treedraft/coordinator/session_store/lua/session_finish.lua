-- Closes a session whose log is whole and gives up its lease; the first reason stays.
-- KEYS: session, tokens, lease
-- ARGV: epoch, owner, time to live ms, length of the log, reason
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'owner')
if not kept[1] then
  return {'SESSION_NOT_FOUND'}
end
if tonumber(kept[1]) < tonumber(ARGV[1]) then
  return {'SESSION_NOT_FOUND'}
end
if kept[1] ~= ARGV[1] or kept[2] ~= ARGV[2] then
  return {'STALE_EPOCH', kept[1]}
end
local length = redis.call('STRLEN', KEYS[2]) / 4
if length < tonumber(ARGV[4]) then
  return {'LOG_GAP', length}
end
redis.call('HSETNX', KEYS[1], 'finish_reason', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[3])
return {'OK'}
