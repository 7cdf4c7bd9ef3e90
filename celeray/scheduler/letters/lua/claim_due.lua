-- Takes letters that are due and whose broker is no Redis, for whoever publishes them. They stay in Redis until they are
-- published and confirmed; meanwhile nobody else takes them, and after a time anybody does.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 now ('': by the server's clock), 2 seconds that the claim lasts, 3 letters at most, 4 bytes of records at most.
-- Returns: for each its id and its record, the one that is due first first.
local book = bookkeeping(KEYS)
local key, now = publish_key(book), ARGV[1] == '' and server_time() or tonumber(ARGV[1])
local ids = redis.call('ZRANGEBYSCORE', key, '-inf', stamp(now), 'LIMIT', 0, ARGV[3])
local reply, size = {}, 0
for _, id in ipairs(ids) do
  local raw = redis.call('HGET', (scheduled_keys(book)), id)
  size = size + #(raw or '')
  if size > tonumber(ARGV[4]) and #reply > 0 then break end
  if raw then
    redis.call('ZADD', key, stamp(now + tonumber(ARGV[2])), id)
    reply[#reply + 1], reply[#reply + 2] = id, raw
  else
    redis.call('ZREM', key, id)
  end
end
return reply
