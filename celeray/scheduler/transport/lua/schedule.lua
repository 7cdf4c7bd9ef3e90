-- Takes held messages whose eta is far into the schedule, each only while its lease is still held. They count as never
-- taken: no place in a window, no begun run. A revoked one stays held, since its consumer ends it at once.
-- KEYS: 1-6 bookkeeping keys, 7 due, 8 entries, 9 messages, 10 ids, 11 lists, 12 revoked task ids.
-- ARGV: groups of five: tag, token, seconds until it goes back to its list, task id, what `inspect scheduled` shows.
-- Returns: for each group 0: not held any more, 1: scheduled, 2: revoked and still held.
local book, revoked = bookkeeping(KEYS), KEYS[12]
local at, verdicts = server_time(), {}

local function schedule(tag, token, back_in_s, task_id, shown)
  local lease = held_under(book, tag, token)
  if not lease then return 0 end
  local entry = redis.call('HGET', book.unacked, tag)
  local message = entry and split_entry(entry)
  if not message then
    release(book, tag)
    return 0
  end
  if redis.call('ZSCORE', revoked, task_id) then return 2 end
  -- New with every claim: copies of one message stay apart.
  local member = string.match(token, ':(%d+)$') .. ':' .. tag
  redis.call('ZADD', KEYS[7], stamp(at + back_in_s), member)
  redis.call('HSET', KEYS[8], member, cmsgpack.pack({ lease.list, task_id, shown }))
  redis.call('HSET', KEYS[9], member, message)
  redis.call('ZADD', KEYS[10], 0, task_id .. '\0' .. member)
  redis.call('HINCRBY', KEYS[11], lease.list, 1)
  release(book, tag)
  return 1
end

for at_arg = 1, #ARGV, 5 do
  verdicts[#verdicts + 1] =
    schedule(ARGV[at_arg], ARGV[at_arg + 1], tonumber(ARGV[at_arg + 2]), ARGV[at_arg + 3], ARGV[at_arg + 4])
end
return verdicts
