-- Lets a request of a tenant in and holds its place, or says why not.
-- KEYS: account, leases, charged tokens
-- ARGV: now in ms or 0 for the time here, request id, lease ms, time to keep ms,
--       requests at once, requests per minute, tokens per minute, tokens per day
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local at_once, requests_limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local tokens_limit, day_limit = tonumber(ARGV[7]), tonumber(ARGV[8])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) then
  return {'OK'}
end
if at_once > 0 and redis.call('ZCARD', KEYS[2]) >= at_once then
  return {'TENANT_REQUESTS_AT_ONCE', 1000}
end
local kept = redis.call(
  'HMGET', KEYS[1], 'requests', 'requests_at', 'tokens', 'tokens_at', 'day', 'day_tokens'
)
local function level_of(capacity, level, filled_at)
  if not level then
    return capacity
  end
  local gained = math.max(0, now - tonumber(filled_at)) * capacity / 60000
  return math.min(capacity, tonumber(level) + gained)
end
local requests = level_of(requests_limit, kept[1], kept[2])
if requests_limit > 0 and requests < 1 then
  return {'TENANT_REQUESTS_PER_MINUTE', math.ceil((1 - requests) * 60000 / requests_limit)}
end
local tokens = level_of(tokens_limit, kept[3], kept[4])
if tokens_limit > 0 and tokens < 1 then
  return {'TENANT_TOKENS_PER_MINUTE', math.ceil((1 - tokens) * 60000 / tokens_limit)}
end
local day = math.floor(now / 86400000)
local used = tonumber(kept[5]) == day and tonumber(kept[6]) or 0
if day_limit > 0 and used >= day_limit then
  return {'TENANT_TOKENS_PER_DAY', (day + 1) * 86400000 - now}
end
if requests_limit > 0 then
  redis.call('HSET', KEYS[1], 'requests', string.format('%.17g', requests - 1), 'requests_at', now)
end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], 0)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[4])
end
return {'OK'}
