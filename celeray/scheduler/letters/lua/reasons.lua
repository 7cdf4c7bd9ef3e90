-- Why messages are parked, a part of them.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 cursor, 0 at first, 2 how many about.
-- Returns: {next cursor, 0 at the end, then for each: its id, its reason, '' where it has none}. One may come twice.
local book = bookkeeping(KEYS)
local found = redis.call('HSCAN', book.parked, ARGV[1], 'COUNT', ARGV[2])
local reply = { found[1] }
for at = 1, #found[2], 2 do
  local ok, record = pcall(cmsgpack.unpack, found[2][at + 1])
  local known = ok and type(record) == 'table' and type(record.message) == 'string' and type(record.reason) == 'string'
  reply[#reply + 1], reply[#reply + 2] = found[2][at], known and record.reason or ''
end
return reply
