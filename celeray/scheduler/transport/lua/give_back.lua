-- Gives held messages back to the lists that they were taken from, each only while its lease is still held.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 RPUSH (front: consumers pop the right end) or LPUSH (back), 2 poison_after, then pairs of tag and token, in
--       the order in which they were taken, which is the order in which they will be taken again.
-- Returns: {tags parked as poison, tags that were not held any more}.
local book, push, poison_after = bookkeeping(KEYS), ARGV[1], tonumber(ARGV[2])
local poisoned, refused = {}, {}
local first, last, step = 3, #ARGV - 1, 2
if push == 'RPUSH' then first, last, step = #ARGV - 1, 3, -2 end
for at = first, last, step do
  local tag = ARGV[at]
  local lease = held_under(book, tag, ARGV[at + 1])
  local verdict = lease and put_back(book, tag, lease.list, push, poison_after) or 'gone'
  -- Behind the others it is put by a consumer that had it, and requeued it on purpose.
  if verdict == 'pushed' and push == 'LPUSH' then redis.call('HSETNX', book.begun, tag, 0) end
  if verdict == 'poison' then poisoned[#poisoned + 1] = tag end
  if verdict == 'gone' then refused[#refused + 1] = tag end
end
return { poisoned, refused }
