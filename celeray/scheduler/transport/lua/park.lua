-- Parks a held message that its consumer can't read.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 tag, 2 token, 3 reason, 4 detail.
-- Returns: 1, or 0 where it was not held any more.
local book, tag = bookkeeping(KEYS), ARGV[1]
local lease = held_under(book, tag, ARGV[2])
local entry = lease and redis.call('HGET', book.unacked, tag)
if not entry then return 0 end
park(book, tag, { reason = ARGV[3], detail = ARGV[4], list = lease.list, at = server_time(),
  begun = begun_count(book, tag), message = split_entry(entry) or entry })
redis.call('HDEL', book.begun, tag)
drop_hold_of(book, split_entry(entry) or entry)
release(book, tag)
return 1
