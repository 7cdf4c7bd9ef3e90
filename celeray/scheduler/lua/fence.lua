-- Shared beginning of the fence scripts, which run in the result backend.
--
-- KEYS[1] is the record of a task id, a hash:
--   fence:MESSAGE  the highest fence that a run of this message had
--   done:MESSAGE   FENCE of the run that completed this message
--   newest         the message of this task id that came last: the first, a retry, or another one with the same id
--   retries        of that message
--   state          what the stored result says
--   success        the number of retries of a message of this task id that succeeded
-- Fences stay text: a number of Lua is written with 14 digits.

-- 'lost': another run of the message began later. 'done': another run completed it. Else 'go'.
local function verdict(record, message, fence)
  if tonumber(redis.call('HGET', record, 'fence:' .. message) or '0') > tonumber(fence) then return 'lost' end
  local done = redis.call('HGET', record, 'done:' .. message)
  if done and done ~= fence then return 'done' end
  return 'go'
end

-- A run that began later than all that are known is the one to trust from now on.
local function register(record, message, fence, retries, ttl)
  if redis.call('HEXISTS', record, 'fence:' .. message) == 0 then
    redis.call('HSET', record, 'newest', message, 'retries', retries)
  end
  redis.call('HSET', record, 'fence:' .. message, fence)
  redis.call('EXPIRE', record, ttl)
end
