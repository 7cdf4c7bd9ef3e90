-- Gives a held message back to its list, as given, or parks it as poison; only while its lease is still held. Its begun
-- runs stay counted, and even without any it was delivered: the next run asks what the one before has left.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 tag, 2 token, 3 poison_after, 4 the message as it shall be there, 5 RPUSH (front) or LPUSH (back).
-- Returns: 'pushed', 'poison', or 'gone' where it was not held any more.
local book, tag = bookkeeping(KEYS), ARGV[1]
local lease = held_under(book, tag, ARGV[2])
if not lease then return 'gone' end
local verdict = put_back(book, tag, lease.list, ARGV[5], tonumber(ARGV[3]), ARGV[4])
if verdict == 'pushed' then redis.call('HSETNX', book.begun, tag, 0) end
return verdict
