-- Moves a held message to another list, as given, only while its lease is still held.
-- KEYS: 1-6 bookkeeping keys, 7 the list.
-- ARGV: 1 tag, 2 token, 3 RPUSH (front) or LPUSH (back), 4 the message as it shall be there.
-- Returns: 1, or 0 where it was not held any more.
local book, tag = bookkeeping(KEYS), ARGV[1]
if not held_under(book, tag, ARGV[2]) then return 0 end
if redis.call('HEXISTS', book.unacked, tag) == 0 then
  release(book, tag)
  return 0
end
redis.call(ARGV[3], KEYS[7], ARGV[4])
release(book, tag)
return 1
