-- Forgets a worker if this start of it is the one that is known.
-- KEYS: index of workers, worker, prefixes
-- ARGV: worker id, incarnation
if redis.call('HGET', KEYS[2], 'incarnation') == ARGV[2] then
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('SREM', KEYS[1], ARGV[1])
end
return {'OK'}
