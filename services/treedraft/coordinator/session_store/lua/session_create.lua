-- Keeps a new session. A repeated create of the same one is no conflict, and one that is put
-- back takes the place of what an earlier owner has put back.
-- KEYS: session, tokens, lease
-- ARGV: owner, epoch, request, tokens (u32 each), lease ms, time to live ms
if redis.call('EXISTS', KEYS[1]) == 1 then
  local known = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'request')
  if known[1] == ARGV[1] and known[2] == ARGV[2] and known[3] == ARGV[3] then
    return {'OK'}
  end
  if tonumber(known[2]) >= tonumber(ARGV[2]) then
    return {'SESSION_EXISTS'}
  end
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'request', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[6])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[5])
return {'OK'}
