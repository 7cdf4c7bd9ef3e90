-- Lets a held message pass all its gates, or none: then it waits at the first one that has no room for it. It is kept
-- there and its lease given up in this one step, and only while the lease is still held.
-- KEYS: 1-6 bookkeeping keys, 7-12 limit keys.
-- ARGV: 1 tag, 2 token, 3 sweeper's name, 4 seconds that a call reserves room, 5 seconds between looks at holders,
--       6 level of priority (0 most urgent), 7 task id, then pairs of gate id and JSON of what is declared.
-- Returns: {1 passed, 0 waits, -1 not held any more; where messages wait at one of the gates, seconds until the first
--          gate of all is due, else ''}.
local book, limits = bookkeeping(KEYS), limit_book(KEYS)
local tag, token, sweeper = ARGV[1], ARGV[2], ARGV[3]
local call_s, heal_s = tonumber(ARGV[4]), tonumber(ARGV[5])
local at = server_time()

local lease = held_under(book, tag, token)
if not lease then return { -1, '' } end

local gates, rank, others_wait = {}, nil, false
for index = 8, #ARGV, 2 do
  local gate = gate_of(limits, ARGV[index], ARGV[index + 1])
  gates[#gates + 1] = gate
  local holder = redis.call('HGET', gate.holders, tag)
  local known = redis.call('ZSCORE', gate.called, tag) or holder and string.match(holder, '[^\n]*$')
  rank = rank or tonumber(known or nil)
end

local function rank_text()
  -- What comes for the first time is the youngest of its priority.
  if not rank then rank = tonumber(ARGV[6]) * LEVEL + redis.call('INCR', limits.sequence) end
  return string.format('%.0f', rank)
end

local function better_than_this(gate)
  local before = '(' .. rank_text()
  local found = redis.call('ZCOUNT', gate.waiting, '-inf', before)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', gate.deadlines, '(' .. stamp(at), '+inf')) do
    local theirs = tonumber(redis.call('ZSCORE', gate.called, other) or math.huge)
    if other ~= tag and theirs < rank then found = found + 1 end
  end
  return found
end

-- Room is given by rank: among those who wait, those who were called, and this one.
local function has_room(gate)
  local waiting = redis.call('ZCARD', gate.waiting)
  -- While others wait, who sweeps looks for the dead, and not everyone who comes.
  if waiting == 0 and slots(gate, tag) < 1 then drop_dead(book, gate, at) end
  local room = math.min(tokens(gate, at), slots(gate, tag))
  if room < 1 then return false end
  local rivals = open_calls(gate, at) + waiting
  return rivals < room or better_than_this(gate) < room
end

local function pass(gate)
  forget_call(gate, tag)
  if gate.concurrency then
    redis.call('HSET', gate.holders, tag, table.concat({ token, ARGV[7], stamp(at), rank_text() }, '\n'))
  end
  if gate.interval_s then
    local arrival = arrival_of(gate, at) + gate.interval_s
    redis.call('SET', gate.arrival, stamp(arrival), 'PX', math.ceil((arrival - at) * 1000) + 1)
  end
  redis.call('HSET', limits.gates, gate.id, gate.declared)
  if redis.call('ZCARD', gate.waiting) > 0 then
    others_wait = schedule(book, limits, gate, at, heal_s) or others_wait
  else
    redis.call('ZADD', limits.due, 'NX', stamp(at + IDLE_S), gate.id)
  end
end

-- False where the entry was not there any more.
local function wait_at(gate)
  local entry = redis.call('HGET', book.unacked, tag)
  local message = entry and split_entry(entry)
  if not message then return false end
  local name = tag
  -- Two copies that a client published twice have one tag.
  if redis.call('HEXISTS', limits.messages, tag) == 1 then name = tag .. '#' .. redis.call('INCR', limits.sequence) end
  redis.call('HSET', limits.messages, name, #lease.list .. '\n' .. lease.list .. message)
  redis.call('ZADD', gate.waiting, rank_text(), name)
  redis.call('HSET', limits.gates, gate.id, gate.declared)
  release(book, tag)
  return true
end

local refusing = nil
for _, gate in ipairs(gates) do
  if not refusing and not has_room(gate) then refusing = gate end
end
local verdict = 1
if refusing then
  if not wait_at(refusing) then return { -1, '' } end
  verdict = 0
  for _, gate in ipairs(gates) do
    local gives_way = forget_call(gate, tag)
    redis.call('HDEL', gate.holders, tag)
    if gives_way or gate == refusing then
      others_wait = look(book, limits, gate, at, call_s, heal_s) or others_wait
    end
  end
else
  for _, gate in ipairs(gates) do pass(gate) end
end
return { verdict, others_wait and sweep_from_now(limits, sweeper, at) or '' }
