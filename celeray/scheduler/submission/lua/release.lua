-- Lets go of dedup keys.
-- KEYS: 1 prefix of the records of dedup keys.
-- ARGV: holds.
-- Returns: how many were held.
local dropped = 0
for _, hold in ipairs(ARGV) do dropped = dropped + drop_hold(KEYS[1], hold) end
return dropped
