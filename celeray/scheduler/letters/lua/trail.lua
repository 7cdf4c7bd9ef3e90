-- What the scripts that change dead letters share: the record in the audit trail, with the number that only they know.

-- fields: as AuditTrail.add gives them; the number goes before the target. Nothing is written of nothing.
local function add_to_trail(key, most, fields, count)
  if count == 0 or #fields == 0 then return end
  for at = 1, #fields, 2 do
    if fields[at] == 'target' then fields[at + 1] = count .. ' ' .. fields[at + 1] end
  end
  redis.call('XADD', key, 'MAXLEN', '~', most, '*', unpack(fields))
end

local function fields_at(first, count)
  local fields = {}
  for at = first, first + count - 1 do fields[#fields + 1] = ARGV[at] end
  return fields
end
