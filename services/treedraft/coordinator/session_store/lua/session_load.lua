-- Returns a session as it is at one moment.
-- KEYS: session, tokens, lease
local kept = redis.call('HMGET', KEYS[1], 'request', 'epoch', 'placement', 'finish_reason')
if not kept[1] then
  return {'SESSION_NOT_FOUND'}
end
local holder = redis.call('GET', KEYS[3]) or ''
return {'OK', kept[1], kept[2], holder, redis.call('GET', KEYS[2]), kept[3], kept[4]}
