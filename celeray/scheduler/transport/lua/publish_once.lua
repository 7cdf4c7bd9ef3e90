-- Publishes a message unless its task id was published in the same scope before.
-- KEYS: 1 mark, 2 list.   ARGV: 1 seconds that the mark lives, 2 message.   Returns: 1, or 0 where it was.
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
