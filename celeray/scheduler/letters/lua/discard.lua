-- Forgets letters for good, parked ones and those that wait to be sent again.
-- KEYS: 1-6 bookkeeping keys, 7 audit trail.
-- ARGV: 1 '1': only say what would be done, 2 records of the trail at most, 3 how many fields of its record follow (0: no
--       record), the fields, then the ids.
-- Returns: for each id 1, or 0 where it was not there any more.
local book, dry, first = bookkeeping(KEYS), ARGV[1] == '1', 4 + tonumber(ARGV[3])

local reply, discarded = {}, 0
for at = first, #ARGV do
  local raw = letter_at(book, ARGV[at])
  if raw and not dry then
    remove_letter(book, ARGV[at])
    let_go(book, raw)
    -- By age or number they go without a record, and without a trace.
    if first > 4 then remember(book, ARGV[at], raw, 'discarded') end
  end
  if raw then discarded = discarded + 1 end
  reply[#reply + 1] = raw and 1 or 0
end
if not dry then add_to_trail(KEYS[7], ARGV[2], fields_at(4, tonumber(ARGV[3])), discarded) end
return reply
