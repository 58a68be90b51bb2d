-- Closes a session and gives up its lease; the first reason stays.
-- KEYS: session, tokens, lease
-- ARGV: epoch, time to live ms, reason
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  return {'SESSION_NOT_FOUND'}
end
if tonumber(epoch) < tonumber(ARGV[1]) then
  return {'SESSION_NOT_FOUND'}
end
if epoch ~= ARGV[1] then
  return {'STALE_EPOCH', epoch}
end
redis.call('HSETNX', KEYS[1], 'finish_reason', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[3])
return {'OK'}
