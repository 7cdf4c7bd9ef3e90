-- Opens a chord for a member that was sent again after it had failed.
-- KEYS: as of chord_part.lua.
-- ARGV: 1 member, 2 '1': parts are ordered, 3 seconds that Celery's keys live, 4 that its group lives (0: for ever),
--       5 seconds that the record lives, 6 an epoch for the chord if it is made anew.
-- Returns: 'unknown': nothing is kept, or the member has succeeded; 'claimed': somebody is about to tell the body, come
--          again; 'open': it is, whether the member's failed part was taken out of a chord whose body was not told yet, or
--          what Celery had forgotten was made again, without the parts of all members that failed;
--          'joined': as 'open', and Celery will read the results of the members, as they are not in its parts alone.
local record, parts, ids, ordered = KEYS[7], KEYS[8], KEYS[9], ARGV[2] == '1'
local size, diff, group, failed = unpack(redis.call('HMGET', record, 'size', 'diff', 'group', 'dead:' .. ARGV[1]))
if not size or redis.call('SISMEMBER', ids, ARGV[1]) == 1 then return 'unknown' end

local function live(key, seconds)
  if seconds ~= '0' then redis.call('EXPIRE', key, seconds) end
end

local open = redis.call('EXISTS', KEYS[3]) == 1
if open and redis.call('EXISTS', KEYS[6]) == 1 then return 'claimed' end
redis.call('HDEL', record, 'dead:' .. ARGV[1])
if open then
  if failed and ordered then redis.call('ZREM', KEYS[1], failed) end
  if failed and not ordered then redis.call('LREM', KEYS[1], 1, failed) end
  redis.call('SREM', KEYS[4], ARGV[1])
  return group and 'joined' or 'open'
end
redis.call('DEL', KEYS[1], KEYS[4], KEYS[6])
if ordered then
  redis.call('ZUNIONSTORE', KEYS[1], 1, parts)
else
  for _, part in ipairs(redis.call('LRANGE', parts, 0, -1)) do redis.call('RPUSH', KEYS[1], part) end
end
redis.call('SUNIONSTORE', KEYS[4], ids)
redis.call('SET', KEYS[2], diff)
redis.call('SET', KEYS[3], size)
redis.call('SET', KEYS[10], ARGV[6])
redis.call('HSET', record, 'epoch', ARGV[6])
for _, at in ipairs({ 1, 2, 3, 4, 10 }) do live(KEYS[at], ARGV[3]) end
for at = 7, 9 do redis.call('EXPIRE', KEYS[at], ARGV[5]) end
if not group then return 'open' end
redis.call('SET', KEYS[5], group)
live(KEYS[5], ARGV[4])
return 'joined'
