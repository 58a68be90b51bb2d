-- Counts tokens, renews the places of running requests and frees those of final ones.
-- KEYS: account, leases, charged tokens
-- ARGV: now in ms or 0 for the time here, lease ms, time to keep ms, tokens per minute,
--       then for each request: id, tokens acknowledged, tokens in total, '1' if final
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local spent = 0
for i = 5, #ARGV, 4 do
  local id, total, is_final = ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local known = tonumber(redis.call('HGET', KEYS[3], id) or ARGV[is_final and i + 2 or i + 1])
  spent = spent + math.max(0, total - known)
  if is_final then
    redis.call('ZREM', KEYS[2], id)
    redis.call('HDEL', KEYS[3], id)
  else
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), id)
    redis.call('HSET', KEYS[3], id, math.max(known, total))
  end
end
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'tokens_at', 'day', 'day_tokens')
local capacity = tonumber(ARGV[4])
if capacity > 0 then
  local level = capacity
  if kept[1] then
    local gained = math.max(0, now - tonumber(kept[2])) * capacity / 60000
    level = math.min(capacity, tonumber(kept[1]) + gained)
  end
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', level - spent), 'tokens_at', now)
end
local day = math.floor(now / 86400000)
local used = tonumber(kept[3]) == day and tonumber(kept[4]) or 0
redis.call('HSET', KEYS[1], 'day', day, 'day_tokens', used + spent)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[3])
end
return {'OK'}
