-- Ends a message whose run failed: it becomes a dead letter, or waits until it is sent again. One step with its ack,
-- where it is still held; a message that was acknowledged before, or is held without a lease, comes with its bytes, and
-- doing it twice changes nothing.
-- KEYS: 1-6 bookkeeping keys, 7 hash of the letters that wait, 8 zset of their ids by the time when they are due.
-- ARGV: 1 tag, 2 token, '' where it is held under no lease, 3 reason, 4 detail, 5 packed attempts, 6 how many, 7 the last
--       one's exception, 8 seconds until it is sent again, '' to park it, 9 how many runs are counted as begun that have
--       ended, 10 list and 11 message, where there is no lease.
-- Returns: 1, or 0 where it was not held any more.
local book, tag, token = bookkeeping(KEYS), ARGV[1], ARGV[2]
local list, message = ARGV[10], ARGV[11]
local begun = 0
if token ~= '' then
  local lease = held_under(book, tag, token)
  local entry = lease and redis.call('HGET', book.unacked, tag)
  if not entry then return 0 end
  list, message = lease.list, split_entry(entry) or entry
  begun = math.max(0, begun_count(book, tag) - tonumber(ARGV[9]))
end

local record = {
  reason = ARGV[3], detail = ARGV[4], list = list, at = server_time(), begun = begun, message = message,
  attempts = ARGV[5], tries = tonumber(ARGV[6]), exception = ARGV[7],
}
if ARGV[8] == '' then
  park(book, tag, record)
  drop_hold_of(book, message)
else
  -- It goes on holding its dedup key: it is still a message of its task.
  record.due = record.at + tonumber(ARGV[8])
  redis.call('HSET', KEYS[7], tag, cmsgpack.pack(record))
  redis.call('ZADD', KEYS[8], stamp(record.due), tag)
end
if token ~= '' then
  redis.call('HDEL', book.begun, tag)
  release(book, tag)
end
return 1
