-- Keeps a worker in place of any earlier start of it.
-- KEYS: index of workers, worker, prefixes
-- ARGV: worker id, incarnation, registration, report, time to live ms,
--       prefixes (8 bytes each)
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'incarnation', ARGV[2], 'registration', ARGV[3], 'report', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
for start = 1, #ARGV[6], 8 do
  redis.call('SADD', KEYS[3], string.sub(ARGV[6], start, start + 7))
end
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return {'OK'}
