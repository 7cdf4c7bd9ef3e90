-- A part of the letters in one place, each without its body and the text of its attempts, so that a list costs little
-- however large they are.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 cursor, 0 at first, 2 how many about, 3 place: parked, scheduled or past.
-- Returns: {next cursor, 0 at the end, then for each: its id, its record without the body, bytes of its message}.
-- What is no record of cmsgpack (which reads no bin type) comes cut to 16 KiB. A letter may come twice, as HSCAN says.
local book = bookkeeping(KEYS)
local START, MOST, RUBBISH_MOST = '{"body": "', 262144, 16384

-- kombu puts the body first.
local function without_body(message)
  if string.sub(message, 1, #START) ~= START then return string.sub(message, 1, MOST) end
  local stop = string.find(message, '"', #START + 1, true)
  while stop and string.byte(message, stop - 1) == 92 do stop = string.find(message, '"', stop + 1, true) end
  if not stop then return string.sub(message, 1, MOST) end
  return START .. string.sub(message, stop, stop + MOST)
end

local places = { parked = book.parked, scheduled = (scheduled_keys(book)), past = (past_keys(book)) }
local found = redis.call('HSCAN', places[ARGV[3]], ARGV[1], 'COUNT', ARGV[2])
local reply = { found[1] }
for at = 1, #found[2], 2 do
  local raw = found[2][at + 1]
  local ok, record = pcall(cmsgpack.unpack, raw)
  local value, size = string.sub(raw, 1, RUBBISH_MOST), #raw
  if ok and type(record) == 'table' and type(record.message) == 'string' then
    size = tonumber(record.size) or #record.message
    record.message, record.attempts = without_body(record.message), nil
    record.original = nil
    value = cmsgpack.pack(record)
  end
  for _, item in ipairs({ found[2][at], value, size }) do reply[#reply + 1] = item end
end
return reply
