-- Puts scheduled messages that are due back at the front of their lists, the one that is due first in front.
-- Doing it twice, or in two places at once, changes nothing.
-- KEYS: 1 due, 2 entries, 3 messages, 4 ids, 5 lists. The messages' own lists are named in the entries.
-- ARGV: 1 now in seconds since the epoch, '' for the server's clock, 2 messages at most, 3 bytes at most (the first one
--       always passes).
-- Returns: {messages put back, how many more are due}.
local due, entries, messages, ids, lists = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local at, most, bytes = tonumber(ARGV[1]) or server_time(), tonumber(ARGV[2]), tonumber(ARGV[3])
local chosen, size = {}, 0

for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', stamp(at), 'LIMIT', 0, most)) do
  size = size + redis.call('HSTRLEN', messages, member)
  if #chosen > 0 and size > bytes then break end
  chosen[#chosen + 1] = member
end

local function forget_list(list)
  if redis.call('HINCRBY', lists, list, -1) <= 0 then redis.call('HDEL', lists, list) end
end

local moved = 0
for index = #chosen, 1, -1 do
  local member = chosen[index]
  local packed, message = redis.call('HGET', entries, member), redis.call('HGET', messages, member)
  if packed and message then
    local entry = cmsgpack.unpack(packed)
    redis.call('RPUSH', entry[1], message)
    redis.call('ZREM', ids, entry[2] .. '\0' .. member)
    forget_list(entry[1])
    moved = moved + 1
  end
  redis.call('HDEL', entries, member)
  redis.call('HDEL', messages, member)
  redis.call('ZREM', due, member)
end
return { moved, redis.call('ZCOUNT', due, '-inf', stamp(at)) }
