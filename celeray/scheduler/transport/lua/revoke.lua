-- Notes revoked tasks by the time of their revocation, and makes what is scheduled of them due at once, so that a worker
-- ends it as revoked while that is still known.
-- KEYS: 1 revoked task ids, 2 revoked stamps, 3 due, 4 ids.
-- ARGV: 1 now in seconds since the epoch, '' for the server's clock, 2 seconds to live, 3 entries at most, 4 number of
--       task ids, then these, then stamps.
-- Returns: scheduled messages that are due now.
local at, ttl_s, most = tonumber(ARGV[1]) or server_time(), tonumber(ARGV[2]), tonumber(ARGV[3])
local first_stamp, due_now = 5 + tonumber(ARGV[4]), 0

for index = 5, #ARGV do
  redis.call('ZADD', index < first_stamp and KEYS[1] or KEYS[2], stamp(at), ARGV[index])
end
for index = 5, first_stamp - 1 do
  local task_id = ARGV[index]
  for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[4], '[' .. task_id .. '\0', '(' .. task_id .. '\1')) do
    redis.call('ZADD', KEYS[3], 'XX', 0, string.sub(name, #task_id + 2))
    due_now = due_now + 1
  end
end
for key = 1, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', stamp(at - ttl_s))
  redis.call('ZREMRANGEBYRANK', KEYS[key], 0, -most - 1)
  redis.call('EXPIRE', KEYS[key], math.ceil(ttl_s))
end
return due_now
