-- Takes over a report and its prefix deltas, if this start of the worker is known.
-- KEYS: worker, prefixes
-- ARGV: incarnation, report, time to live ms, removed and added prefixes (8 bytes each)
if redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then
  return {'UNKNOWN'}
end
redis.call('HSET', KEYS[1], 'report', ARGV[2])
for start = 1, #ARGV[4], 8 do
  redis.call('SREM', KEYS[2], string.sub(ARGV[4], start, start + 7))
end
for start = 1, #ARGV[5], 8 do
  redis.call('SADD', KEYS[2], string.sub(ARGV[5], start, start + 7))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {'OK'}
