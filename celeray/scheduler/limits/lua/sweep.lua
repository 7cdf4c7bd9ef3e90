-- Looks at the gates that are due: calls what may go, frees the room of dead workers, forgets gates where nothing is.
-- Doing it twice changes nothing. Of several sweepers one works, and another takes over when that one is silent.
-- KEYS: 1-6 bookkeeping keys, 7-12 limit keys.
-- ARGV: 1 sweeper's name, 2 seconds that a call reserves room, 3 seconds between looks at holders, 4 gates at most.
-- Returns: {gates looked at, or -1 where another sweeps; seconds until the next one is due, '' for never}.
local book, limits = bookkeeping(KEYS), limit_book(KEYS)
local call_s, heal_s = tonumber(ARGV[2]), tonumber(ARGV[3])
local at = server_time()

local other = redis.call('GET', limits.sweeper)
if other and other ~= ARGV[1] then return { -1, '' } end
redis.call('SET', limits.sweeper, ARGV[1], 'PX', SWEEPER_MS)
local ids = redis.call('ZRANGEBYSCORE', limits.due, '-inf', stamp(at), 'LIMIT', 0, tonumber(ARGV[4]))
for _, id in ipairs(ids) do
  local declared = redis.call('HGET', limits.gates, id)
  if declared then
    local gate = gate_of(limits, id, declared)
    if slots(gate) < 1 then drop_dead(book, gate, at) end
    look(book, limits, gate, at, call_s, heal_s)
  else
    redis.call('ZREM', limits.due, id)
  end
end
return { #ids, next_due(limits, at) }
