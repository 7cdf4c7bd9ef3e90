-- Shared beginning of the limits' scripts, after lease.lua of the leased transport: how a gate is read and written.
--
-- A gate is one limit for one value of its key. A message that may not pass it is kept here, by its rank: priority
-- first, then age. When there is room it is called: put back to the front of its list, where it keeps its rank for
-- when it comes to the gate again. A call reserves the room against worse ranks until its deadline.
--
-- Limit keys, always in this order, after the bookkeeping keys of lease.lua:
--   gates     hash   gate id -> JSON of what is declared
--   due       zset   gate id by the time when it is to be looked at
--   messages  hash   tag -> LENGTH OF LIST \n LIST MESSAGE, of every message that waits at a gate
--   sequence  string the last age given out
--   sweeper   string who looks at the gates that are due; saves work, nothing more
--   prefix    -      begin of each gate's own keys:
--     ID:holders   hash   tag -> TOKEN \n TASK ID \n SINCE \n RANK, of a run that is under way
--     ID:waiting   zset   tag by rank
--     ID:called    zset   tag by rank, of messages that are back on their lists
--     ID:deadlines zset   the same tags by the time until which the call reserves room
--     ID:arrival   string when the next run would begin at an even pace (GCRA), in seconds

local IDLE_S, REMEMBERED_S, CALLS_MOST, SWEEPER_MS = 60, 3600, 100, 3000
local LEVEL = 2 ^ 48

local function limit_book(names)
  return {
    gates = names[7], due = names[8], messages = names[9], sequence = names[10], sweeper = names[11],
    prefix = names[12],
  }
end

local function gate_of(limits, id, declared)
  local limit, own = cjson.decode(declared), limits.prefix .. id
  return {
    id = id, declared = declared, interval_s = limit.interval_s, burst = limit.burst,
    concurrency = limit.concurrency, holders = own .. ':holders', waiting = own .. ':waiting',
    called = own .. ':called', deadlines = own .. ':deadlines', arrival = own .. ':arrival',
  }
end

-- When the next run would begin at an even pace. Never further away than the rate allows, so that a clock that was set
-- back stops nothing.
local function arrival_of(gate, at)
  local arrival = tonumber(redis.call('GET', gate.arrival) or '0')
  return math.min(math.max(at, arrival), at + gate.burst * gate.interval_s)
end

-- Runs that the rate lets begin now.
local function tokens(gate, at)
  if not gate.interval_s then return math.huge end
  return math.max(0, math.floor((at - arrival_of(gate, at)) / gate.interval_s + gate.burst + 1e-6))
end

-- A holder lives as long as the lease under which it passed; a run that ended, or whose worker is dead, has none. Its
-- message may be back on its list, so its rank is remembered.
local function drop_dead(book, gate, at)
  local entries = redis.call('HGETALL', gate.holders)
  for index = 1, #entries, 2 do
    local tag, holder = entries[index], entries[index + 1]
    if not held_under(book, tag, string.match(holder, '^[^\n]*')) then
      redis.call('HDEL', gate.holders, tag)
      redis.call('ZADD', gate.called, string.match(holder, '[^\n]*$'), tag)
      redis.call('ZADD', gate.deadlines, stamp(at), tag)
    end
  end
end

-- Room for runs under way, as far as is known. What `tag` itself holds counts as free.
local function slots(gate, tag)
  if not gate.concurrency then return math.huge end
  local own = tag and redis.call('HEXISTS', gate.holders, tag) or 0
  return gate.concurrency - redis.call('HLEN', gate.holders) + own
end

-- Calls whose reservation still counts.
local function open_calls(gate, at)
  return redis.call('ZCOUNT', gate.deadlines, '(' .. stamp(at), '+inf')
end

local function forget_call(gate, tag)
  redis.call('ZREM', gate.deadlines, tag)
  return redis.call('ZREM', gate.called, tag) == 1
end

local function call(limits, gate, tag, deadline)
  local rank, entry = redis.call('ZSCORE', gate.waiting, tag), redis.call('HGET', limits.messages, tag)
  redis.call('ZREM', gate.waiting, tag)
  if not entry then return end
  local first = string.find(entry, '\n', 1, true)
  local length = tonumber(string.sub(entry, 1, first - 1))
  redis.call('RPUSH', string.sub(entry, first + 1, first + length), string.sub(entry, first + length + 1))
  redis.call('HDEL', limits.messages, tag)
  redis.call('ZADD', gate.called, rank, tag)
  redis.call('ZADD', gate.deadlines, stamp(deadline), tag)
end

-- When a gate at which messages wait is to be looked at again.
local function next_look(gate, at, heal_s)
  local calls = open_calls(gate, at)
  if slots(gate) <= calls then return at + heal_s end
  if not gate.interval_s then return at end
  if calls + 1 <= gate.burst then
    return math.max(at, arrival_of(gate, at) + (calls + 1 - gate.burst) * gate.interval_s)
  end
  local first = redis.call('ZRANGEBYSCORE', gate.deadlines, '(' .. stamp(at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2]) + 0.001
end

-- Returns whether messages wait. A gate where nothing is left is forgotten.
local function schedule(book, limits, gate, at, heal_s)
  if redis.call('ZCARD', gate.waiting) > 0 then
    redis.call('ZADD', limits.due, stamp(next_look(gate, at, heal_s)), gate.id)
    return true
  end
  drop_dead(book, gate, at)
  if redis.call('EXISTS', gate.holders, gate.called, gate.arrival) > 0 then
    redis.call('ZADD', limits.due, stamp(at + IDLE_S), gate.id)
  else
    redis.call('HDEL', limits.gates, gate.id)
    redis.call('ZREM', limits.due, gate.id)
  end
  return false
end

-- Calls as many messages as there is room for, so that the best of them is the first on its list. Returns as `schedule`.
local function look(book, limits, gate, at, call_s, heal_s)
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', gate.deadlines, '-inf', stamp(at - REMEMBERED_S))) do
    forget_call(gate, tag)
  end
  local room = math.min(tokens(gate, at), slots(gate)) - open_calls(gate, at)
  if room >= 1 then
    local tags = redis.call('ZRANGE', gate.waiting, 0, math.min(room, CALLS_MOST) - 1)
    for index = #tags, 1, -1 do call(limits, gate, tags[index], at + call_s) end
  end
  return schedule(book, limits, gate, at, heal_s)
end

-- Seconds until the first gate is due, as text, since Redis cuts numbers to integers; '' for never.
local function next_due(limits, at)
  local first = redis.call('ZRANGE', limits.due, 0, 0, 'WITHSCORES')
  return first[2] and string.format('%.4f', math.max(0, tonumber(first[2]) - at)) or ''
end

-- Who has just changed when a gate is due looks at all of them from now on. Returns as `next_due`.
local function sweep_from_now(limits, sweeper, at)
  redis.call('SET', limits.sweeper, sweeper, 'PX', SWEEPER_MS)
  return next_due(limits, at)
end
