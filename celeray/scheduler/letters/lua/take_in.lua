-- Makes letters of messages that somebody put on the dead-letter queue: each leaves its list in the step in which it is
-- parked, so it becomes one letter however many do this at once.
-- KEYS: 1-6 bookkeeping keys, then the lists.
-- ARGV: for each message: number of its list in KEYS, id of its letter, its bytes as they are on the list, the message
--       that a redrive sends ('': the same bytes), detail, how many runs failed ('': unknown), class of the last
--       exception ('': unknown).
-- Returns: for each the id that its letter has, or '' where it was not there any more.
local book, FIELDS = bookkeeping(KEYS), 7

-- Counted from how many letters there are, since of many that are alike each would look past all those before it.
local function free_id(id)
  local free, number = id, redis.call('HLEN', book.parked)
  while letter_at(book, free) do
    free, number = id .. '-' .. number, number + 1
  end
  return free
end

-- From the end of the list, which is where they were read.
local function take_in(number, list, id, raw, message, detail, tries, exception)
  if redis.call('LREM', list, -1, raw) == 0 then return '' end
  id = free_id(id)
  park(book, id, {
    reason = 'reported', detail = detail, list = list, begun = 0,
    -- Within a script the clock stands still, and letters are listed by their time.
    at = server_time() + number / 1e6,
    message = message == '' and raw or message, original = message ~= '' and raw or nil,
    tries = tonumber(tries), exception = exception ~= '' and exception or nil,
  })
  drop_hold_of(book, raw)
  return id
end

local reply = {}
for at = 1, #ARGV, FIELDS do
  reply[#reply + 1] = take_in(#reply, KEYS[tonumber(ARGV[at])], unpack(ARGV, at + 1, at + FIELDS - 1))
end
return reply
