-- Gives a held message back behind the others of its list, as given, or parks it as poison; only while its lease is
-- still held. Its begun runs stay counted.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 tag, 2 token, 3 poison_after, 4 the message as it shall be there.
-- Returns: 'pushed', 'poison', or 'gone' where it was not held any more.
local book, tag = bookkeeping(KEYS), ARGV[1]
local lease = held_under(book, tag, ARGV[2])
if not lease then return 'gone' end
local verdict = put_back(book, tag, lease.list, 'LPUSH', tonumber(ARGV[3]), ARGV[4])
if verdict == 'pushed' then redis.call('HSETNX', book.begun, tag, 0) end
return verdict
