-- Writes task records, and trims those of ended runs by age and number and those of open ones by age.
-- KEYS[1] hash of records   KEYS[2] zset of open task ids   KEYS[3] zset of ended task ids
-- ARGV[1] msgpack array of [task id, time of its last change, ended, JSON]
-- ARGV[2] oldest time of an ended run to keep   ARGV[3] most ended runs to keep
-- ARGV[4] oldest time of an open one to keep    ARGV[5] seconds that the keys live without a write
-- Returns the number of records written.
local TRIM = 1000 -- most ids a call and set, since unpack() has a limit; more than a call adds

local function trim(index, ids)
  if #ids > 0 then
    redis.call('ZREM', index, unpack(ids))
    redis.call('HDEL', KEYS[1], unpack(ids))
  end
end

local records = cmsgpack.unpack(ARGV[1])
for _, record in ipairs(records) do
  local id, score = record[1], string.format('%.6f', record[2])
  redis.call('HSET', KEYS[1], id, record[4])
  redis.call('ZREM', record[3] and KEYS[2] or KEYS[3], id)
  redis.call('ZADD', record[3] and KEYS[3] or KEYS[2], score, id)
end
trim(KEYS[2], redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[4], 'LIMIT', 0, TRIM))
trim(KEYS[3], redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[2], 'LIMIT', 0, TRIM))
local surplus = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[3])
if surplus > 0 then
  trim(KEYS[3], redis.call('ZRANGE', KEYS[3], 0, math.min(surplus, TRIM) - 1))
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[5])
end
return #records
