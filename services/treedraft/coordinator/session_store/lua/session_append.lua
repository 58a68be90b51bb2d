-- Appends tokens to the log; those that it already has are skipped.
-- KEYS: session, tokens, lease
-- ARGV: epoch, owner, lease ms, time to live ms, base length, tokens (u32 each)
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
local length = redis.call('STRLEN', KEYS[2])
local base = tonumber(ARGV[5]) * 4
if base > length then
  return {'LOG_GAP', length / 4}
end
local num_known = math.min(length - base, #ARGV[6])
if num_known > 0 then
  local known = redis.call('GETRANGE', KEYS[2], base, base + num_known - 1)
  if known ~= string.sub(ARGV[6], 1, num_known) then
    return {'LOG_MISMATCH'}
  end
end
if num_known < #ARGV[6] then
  if kept[3] then
    return {'SESSION_FINISHED'}
  end
  length = redis.call('APPEND', KEYS[2], string.sub(ARGV[6], num_known + 1))
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if not kept[3] then
  redis.call('SET', KEYS[3], kept[2], 'PX', ARGV[3])
end
return {'OK', length / 4}
