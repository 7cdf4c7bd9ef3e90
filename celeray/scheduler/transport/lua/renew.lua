-- Extends leases that are still held. A stock worker that restored the message in between has removed its entry, and
-- has written another time if it took the message itself.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 lease in seconds, then pairs of tag and token.
-- Returns: tokens whose lease is lost. Not tags: one owner may have claimed a message again after it lost it.
local book, lease_s = bookkeeping(KEYS), tonumber(ARGV[1])
local at, lost = server_time(), {}
for pair = 2, #ARGV - 1, 2 do
  local tag = ARGV[pair]
  local lease = held_under(book, tag, ARGV[pair + 1])
  local taken = tonumber(redis.call('ZSCORE', book.index, tag) or '-1')
  local ends = tonumber(redis.call('ZSCORE', book.deadlines, tag) or '-1')
  if not lease then
    lost[#lost + 1] = ARGV[pair + 1]
  elseif math.abs(taken + lease.lease_s - ends) > 0.001 or redis.call('HEXISTS', book.unacked, tag) == 0 then
    forget_lease(book, tag)
    lost[#lost + 1] = ARGV[pair + 1]
  else
    redis.call('ZADD', book.index, 'XX', stamp(at), tag)
    redis.call('ZADD', book.deadlines, 'XX', stamp(at + lease.lease_s), tag)
  end
end
return lost
