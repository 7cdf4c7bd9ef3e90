-- Runs that passed gates have ended, or messages that were called will never come: their room goes to the next ones.
-- KEYS: 1-6 bookkeeping keys, 7-12 limit keys.
-- ARGV: 1 sweeper's name, 2 seconds that a call reserves room, 3 seconds between looks at holders, then gate id, tag and
--       token of each; the token is '' for one that was called.
-- Returns: where messages wait at one of the gates, seconds until the first gate of all is due, else ''.
local book, limits = bookkeeping(KEYS), limit_book(KEYS)
local call_s, heal_s = tonumber(ARGV[2]), tonumber(ARGV[3])
local at, others_wait = server_time(), false
local freed = {}

for index = 4, #ARGV, 3 do
  local id, tag, token = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local declared = redis.call('HGET', limits.gates, id)
  if declared then
    local gate = gate_of(limits, id, declared)
    if token == '' then
      forget_call(gate, tag)
    else
      -- The message may have been taken again since, under another token.
      local holder = redis.call('HGET', gate.holders, tag)
      if holder and string.match(holder, '^[^\n]*') == token then redis.call('HDEL', gate.holders, tag) end
    end
    freed[id] = gate
  end
end
for _, gate in pairs(freed) do
  if redis.call('ZCARD', gate.waiting) > 0 then
    others_wait = look(book, limits, gate, at, call_s, heal_s) or others_wait
  end
end
return others_wait and sweep_from_now(limits, ARGV[1], at) or ''
