-- After Celery's own script (`stock`, put before this one), and in the same step: a chord whose body is out is complete.
-- KEYS: 1-5 as Celery's, 6 record, 7 its parts, 8 its ids.
-- ARGV: as Celery's.
-- Returns: what Celery's script returns.
local cleaned = stock()
if cleaned == 1 then redis.call('DEL', KEYS[6], KEYS[7], KEYS[8]) end
return cleaned
