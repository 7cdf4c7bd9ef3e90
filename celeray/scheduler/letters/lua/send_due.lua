-- Sends letters again whose time has come, in front of their lists; what can't be sent is parked, for an operator. Each
-- leaves the schedule in the same step, so it is sent once however often and from wherever this is called.
-- KEYS: 1-6 bookkeeping keys, then the lists.
-- ARGV: 1 most ms that a dedup key is held, then for each letter: id, SHA-1 of its record, which says when it is due,
--       number of its list in KEYS (0: it can't be sent), and the message as it shall be there. The one that is due last
--       comes first.
-- Returns: for each letter 'sent', 'parked', or 'gone': discarded, or sent by somebody else.
local book, most_ms = bookkeeping(KEYS), tonumber(ARGV[1])
local records, due = scheduled_keys(book)
local FIELDS = 4

local function send(id, digest, list, text)
  local raw = redis.call('HGET', records, id)
  -- Without its record it would be looked at for ever.
  if not raw then redis.call('ZREM', due, id) end
  if not raw or redis.sha1hex(raw) ~= digest then return 'gone' end
  local kind = list and redis.call('TYPE', list).ok
  local ok, message = pcall(cjson.decode, text)
  if ok and (kind == 'list' or kind == 'none') then
    redis.call('RPUSH', list, text)
    remove_letter(book, id)
    hold_again(book, message, most_ms)
    return 'sent'
  end
  remove_letter(book, id)
  redis.call('HSET', book.parked, id, raw)
  let_go(book, raw)
  return 'parked'
end

local reply = {}
for index = 2, #ARGV, FIELDS do
  reply[#reply + 1] = send(ARGV[index], ARGV[index + 1], KEYS[tonumber(ARGV[index + 2])], ARGV[index + 3])
end
return reply
