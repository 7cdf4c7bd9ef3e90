-- Whether a run may go on, and from now on no run of its message that began earlier.
-- KEYS: 1 record.
-- ARGV: 1 message, 2 fence, 3 retries, 4 seconds that the record lives, 5 '1': it was sent again, since its sender did
--       not learn whether it was sent, so another message that says the same may have been run to its end.
-- Returns: 'go', 'lost' or 'done'.
local found = verdict(KEYS[1], ARGV[1], ARGV[2])
if found == 'go' and ARGV[5] == '1' and redis.call('HGET', KEYS[1], 'success') == ARGV[3] then found = 'done' end
if found == 'go' then register(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) end
return found
