-- Sends parked messages to their lists again, and those that wait to be sent again at once: each leaves its hash in the
-- step in which it is pushed, so it is sent once however often and from wherever this is called. One whose broker is no
-- Redis is due at once, and whoever can publish it does (claim_due.lua).
-- KEYS: 1-6 bookkeeping keys, 7 audit trail, then the lists.
-- ARGV: 1 '1': only say what would be done, 2 most ms that a dedup key is held, 3 records of the trail at most, 4 how
--       many fields of its record follow, the fields, then for each letter: id, SHA-1 of its record, number of its
--       list in KEYS, the message as it shall be there, and 'push', or 'publish' where the list is a queue elsewhere.
-- Returns: for each letter 'sent', 'gone', or why not.
local book, dry, most_ms = bookkeeping(KEYS), ARGV[1] == '1', tonumber(ARGV[2])
local FIELDS, first = 5, 5 + tonumber(ARGV[4])

local function send(id, digest, list, text, how)
  local raw = letter_at(book, id)
  if not raw or redis.sha1hex(raw) ~= digest then return 'gone' end
  if how == 'publish' then
    if not dry then make_due(book, id, raw, list, text) end
    return 'sent'
  end
  local kind = redis.call('TYPE', list).ok
  if kind ~= 'list' and kind ~= 'none' then return 'its list is a ' .. kind end
  -- As claim.lua reads it, or it would be parked again at once.
  local ok, message = pcall(cjson.decode, text)
  if not ok then return 'unreadable: ' .. tostring(message) end
  if not dry then
    -- Pushed first: where Redis refuses that, for want of memory say, nothing is changed.
    redis.call('LPUSH', list, text)
    remove_letter(book, id)
    remember(book, id, raw, 'redriven')
    hold_again(book, message, most_ms)
  end
  return 'sent'
end

local reply, sent = {}, 0
for at = first, #ARGV, FIELDS do
  local verdict = send(ARGV[at], ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3], ARGV[at + 4])
  if verdict == 'sent' then sent = sent + 1 end
  reply[#reply + 1] = verdict
end
if not dry then add_to_trail(KEYS[7], ARGV[3], fields_at(5, tonumber(ARGV[4])), sent) end
return reply
