-- Counts runs that have begun and acknowledges messages, each only while its lease is still held.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 number of begun runs, 2 number of ended runs, then pairs of tag and token: begun, ended without a
--       settlement (their begun runs count no more; with a newline and 1 after the token, one of them does not), and the
--       rest acknowledged. After the token of one that holds a dedup key come a newline and its hold, which is let go of.
-- Returns: tags whose lease is somebody else's or gone; nothing was changed for these.
local book = bookkeeping(KEYS)
local begun, ended = tonumber(ARGV[1]), tonumber(ARGV[2])
local refused, done = {}, {}
local CHUNK = 1000

local function drop_done()
  if #done == 0 then return end
  redis.call('HDEL', book.unacked, unpack(done))
  redis.call('ZREM', book.index, unpack(done))
  redis.call('HDEL', book.leases, unpack(done))
  redis.call('ZREM', book.deadlines, unpack(done))
  redis.call('HDEL', book.begun, unpack(done))
  done = {}
end

for pair = 1, (#ARGV - 2) / 2 do
  local tag, token, hold = ARGV[1 + 2 * pair], ARGV[2 + 2 * pair], nil
  local newline = string.find(token, '\n', 1, true)
  if newline then token, hold = string.sub(token, 1, newline - 1), string.sub(token, newline + 1) end
  if not held_under(book, tag, token) then
    refused[#refused + 1] = tag
  elseif pair <= begun then
    redis.call('HINCRBY', book.begun, tag, 1)
  elseif pair <= begun + ended then
    redis.call('HSET', book.begun, tag, hold and math.max(0, begun_count(book, tag) - 1) or 0)
  else
    done[#done + 1] = tag
    if hold then drop_hold(dedup_prefix(book), hold) end
    if #done == CHUNK then drop_done() end
  end
end
drop_done()
return refused
