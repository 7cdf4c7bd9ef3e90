-- Stores and publishes a state or result of a run, unless another run has the say.
-- KEYS: 1 record, 2 result.
-- ARGV: 1 message, 2 fence, 3 retries, 4 seconds that the record lives, 5 state, 6 '1': completes the message,
--       7 '1': writes over a result that no record tells of, 8 seconds that the result lives (0: for ever), 9 payload.
-- Returns: 'stored'; 'kept', nothing written: a success stays, and so does what a later message of the id wrote;
--          'unknown', nothing written: there is a result, by somebody without a fence; or 'lost' or 'done'.
local record, message, fence, retries = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local found = verdict(record, message, fence)
if found ~= 'go' then return found end
local newest, newest_retries, state = unpack(redis.call('HMGET', record, 'newest', 'retries', 'state'))
local exists = redis.call('EXISTS', KEYS[2]) == 1
if exists and not state and ARGV[7] ~= '1' then return 'unknown' end
local seen = redis.call('HEXISTS', record, 'fence:' .. message) == 1
register(record, message, fence, retries, ARGV[4])
if ARGV[6] == '1' then redis.call('HSET', record, 'done:' .. message, fence) end
if ARGV[6] == '1' and ARGV[5] == 'SUCCESS' then redis.call('HSET', record, 'success', retries) end
local outdated = seen and newest ~= message and tonumber(retries) < tonumber(newest_retries)
if exists and (state == 'SUCCESS' or outdated) then return 'kept' end
redis.call('HSET', record, 'state', ARGV[5])
if ARGV[8] == '0' then
  redis.call('SET', KEYS[2], ARGV[9])
else
  redis.call('SETEX', KEYS[2], ARGV[8], ARGV[9])
end
redis.call('PUBLISH', KEYS[2], ARGV[9])
return 'stored'
