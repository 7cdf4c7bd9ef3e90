-- Puts messages on their lists, all of them or none, and claims the dedup keys that they ask for. Everything is decided
-- by reading before the first write. Repeating a call under the same memory key writes no message again.
-- KEYS: the lists, each once.
-- ARGV: 1 prefix of the records of dedup keys, 2 memory key ('': this call is not remembered), 3 its life in ms, 4 most
--       that a key is held in ms, 5 number of pairs that follow: list to expire and its ms; then for each message:
--       message, indexes of its lists in KEYS joined by commas, task id, token, digest of its dedup key or '',
--       '1' where that is held until the task ended, ms of its period or 0, and one of
--         first   a duplicate is not written
--         linked  a duplicate refuses the whole call
--         again   a retry: written in any case, and holds the key if nobody else has it
-- Returns: {0, then for each message the task id of the first submission, '' where it was written}, or
--          {index of the refused message, task id of the first submission}.
local dedup, memory, memory_ms, most_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local FIELDS = 8
local begin = 6 + 2 * tonumber(ARGV[5])
local verdicts, holders = {}, {}

local stored = memory ~= '' and redis.call('GET', memory)
if stored then
  -- A write, so that WAIT after a repeated call waits for replicas to have the first one too.
  redis.call('PEXPIRE', memory, memory_ms)
  local before = cmsgpack.unpack(stored)
  -- lua/publish_once.lua of the transport writes another value there.
  return type(before) == 'table' and before or { 0, '' }
end

for _, list in ipairs(KEYS) do
  local kind = redis.call('TYPE', list).ok
  if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. list .. ' is no list but a ' .. kind)
  end
end

local reply, written = { 0 }, 0
for at = begin, #ARGV, FIELDS do
  local id, digest, mode = ARGV[at + 2], ARGV[at + 4], ARGV[at + 7]
  local holder = digest ~= '' and (holders[digest] or redis.call('HGET', dedup .. digest, 'id'))
  local claims = digest ~= ''
  reply[#reply + 1] = ''
  if holder and mode == 'again' then
    claims = holder == id
  elseif holder then
    if mode == 'linked' and holder ~= id then return { (at - begin) / FIELDS + 1, holder } end
    reply[#reply], claims = holder, false
  end
  if claims then holders[digest] = id end
  if reply[#reply] == '' then written = written + 1 end
  verdicts[#verdicts + 1] = claims
end

local function claim(at, mode)
  local record, period_ms = dedup .. ARGV[at + 4], tonumber(ARGV[at + 6])
  local holds, fields = ARGV[at + 5] == '1', { 'id', ARGV[at + 2] }
  local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
  if holds then set('m:' .. ARGV[at + 3], '1') end
  if period_ms > 0 and mode ~= 'again' then set('until', string.format('%.0f', milliseconds() + period_ms)) end
  redis.call('HSET', record, unpack(fields))
  redis.call('PEXPIRE', record, string.format('%.0f', holds and math.max(most_ms, period_ms) or period_ms))
end

-- Many messages of a list in one call, in their order.
local CHUNK, pending = 1000, {}
for list = 1, #KEYS do pending[list] = {} end

local function flush(list)
  if #pending[list] > 0 then redis.call('LPUSH', KEYS[list], unpack(pending[list])) end
  pending[list] = {}
end

local function push(list, message)
  table.insert(pending[list], message)
  if #pending[list] == CHUNK then flush(list) end
end

for index, claims in ipairs(verdicts) do
  local at = begin + (index - 1) * FIELDS
  if reply[index + 1] == '' then
    for list in string.gmatch(ARGV[at + 1], '%d+') do push(tonumber(list), ARGV[at]) end
    if claims then claim(at, ARGV[at + 7]) end
  else
    local record = dedup .. ARGV[at + 4]
    -- A write, so that WAIT after a duplicate waits for replicas to have the first one.
    redis.call('PEXPIRE', record, math.max(1, redis.call('PTTL', record)))
  end
end
for list = 1, #KEYS do flush(list) end
for pair = 6, begin - 1, 2 do redis.call('PEXPIRE', ARGV[pair], ARGV[pair + 1]) end
if memory ~= '' and written > 0 then redis.call('SET', memory, cmsgpack.pack(reply), 'PX', memory_ms) end
return reply
