-- Writes what is left of a message on a broker that is no Redis, before it is acknowledged there: it becomes a dead letter,
-- or waits until it is published again. An attempt leaves one letter, however often its message comes.
-- KEYS: 1-6 bookkeeping keys, 7 mark of the attempt.
-- ARGV: 1 id, 2 reason, 3 detail, 4 packed attempts, 5 how many, 6 the last one's exception, 7 seconds until it is sent
--       again, '' to park it, 8 queue with the keys' prefix, 9 message, 10 kind of the broker, 11 seconds that the mark
--       lives, 12 '1': the message may have come before. What comes for the first time is a message of its own, also where
--       another one had the same task id.
-- Returns: 1, or 0 where the attempt has left its letter before.
local book, id = bookkeeping(KEYS), ARGV[1]
if ARGV[12] == '1' and redis.call('EXISTS', KEYS[7]) == 1 then return 0 end
redis.call('SET', KEYS[7], '1', 'EX', ARGV[11])

local record = {
  reason = ARGV[2], detail = ARGV[3], list = ARGV[8], at = server_time(), begun = 0, message = ARGV[9],
  attempts = ARGV[4], tries = tonumber(ARGV[5]), exception = ARGV[6], broker = ARGV[10],
}
-- Of a message before it with the same id.
remove_letter(book, id)
if ARGV[7] == '' then
  park(book, id, record)
else
  record.due = record.at + tonumber(ARGV[7])
  schedule_publish(book, id, record)
end
return 1
