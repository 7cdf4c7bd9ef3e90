-- After Celery's own script of a chord part (`stock`, put before this one), and in the same step: a chord with a failed
-- member is kept, so that the member can be sent again when Celery has forgotten the chord.
-- KEYS: 1-6 as Celery's: parts, difference, size, ids, group, claim; 7 record, 8 its parts, 9 its ids, 10 epoch.
-- ARGV: 1-8 as Celery's, of which: 1 task id, 2 part, 3 '1': parts are ordered, 4 index;
--       9 'done', 'dead' (it failed, and may come again), or 'gone' (it was revoked), 10 seconds that the record lives.
-- The record is a hash:
--   size, diff  how many parts make the chord, as Celery has it
--   group       Celery's GroupResult, where the header is more than a list of tasks
--   epoch       tells one run of a frozen chord from a later one with the same group id
--   dead:MEMBER the failed part of a member; a member is TASK:INDEX, as in Celery's ids
-- Its parts and ids are those of the members that succeeded, in the types that Celery gives them.
-- Returns: what Celery's script returns.
local record, parts, ids, ordered = KEYS[7], KEYS[8], KEYS[9], ARGV[3] == '1'
local member, part = ARGV[1] .. ':' .. ARGV[4], ARGV[2]

local function keep_what_came_before()
  if ordered then
    redis.call('ZUNIONSTORE', parts, 1, KEYS[1])
    redis.call('ZREM', parts, part)
  else
    for _, other in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
      if other ~= part then redis.call('RPUSH', parts, other) end
    end
  end
  redis.call('SUNIONSTORE', ids, KEYS[4])
  redis.call('SREM', ids, member)
end

local function keep_part()
  if ARGV[9] == 'dead' then
    redis.call('HSET', record, 'dead:' .. member, part)
  elseif ARGV[9] == 'done' and redis.call('SADD', ids, member) == 1 then
    if ordered then redis.call('ZADD', parts, ARGV[4], part) else redis.call('RPUSH', parts, part) end
    redis.call('HDEL', record, 'dead:' .. member)
  end
end

local function keep_size()
  local size, group = redis.call('GET', KEYS[3]), redis.call('GET', KEYS[5])
  if size then redis.call('HSET', record, 'size', size, 'diff', redis.call('GET', KEYS[2]) or '0') end
  if group then redis.call('HSET', record, 'group', group) end
end

local counted = redis.call('SISMEMBER', KEYS[4], member) == 1
local reply = stock()
-- Of a member that was counted before, or of a chord whose body is out, Celery counts nothing.
if counted or reply[1] == -1 then return reply end
local epoch, known = redis.call('GET', KEYS[10]) or '', redis.call('EXISTS', record) == 1
if known and epoch ~= '' and redis.call('HGET', record, 'epoch') ~= epoch then
  redis.call('DEL', record, parts, ids)
  known = false
end
if not known and ARGV[9] ~= 'dead' then return reply end
if not known then
  redis.call('HSET', record, 'epoch', epoch)
  keep_what_came_before()
end
keep_part()
keep_size()
for at = 7, 9 do redis.call('EXPIRE', KEYS[at], ARGV[10]) end
return reply
