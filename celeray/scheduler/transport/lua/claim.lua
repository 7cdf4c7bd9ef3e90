-- Takes messages off their lists under a lease, most urgent first. A message is stored as held before it leaves its
-- list, so there is no moment in which it is nowhere; one that can't be read is parked.
-- KEYS: only the lists, level by level, since with client tracking a change of any key here wakes the waiting worker.
-- ARGV: 1-6 bookkeeping keys, 7 fence key, 8 messages at most, 9 bytes at most (the first one always passes), 10 owner,
--       11 lease in seconds, 12 lists a level, 13 '1': within a level the lists take turns, else the first goes first.
-- Returns: {parked, then for each message: index in KEYS, tag, token, runs begun before, message}.
local book, fence_key = bookkeeping(ARGV), ARGV[7]
local most, bytes, owner, lease_s = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11]
local width, turns = tonumber(ARGV[12]), ARGV[13] == '1'
local PARKED_MOST = 1000

local at, fence = server_time(), nil
local reply, claimed, size, parked = { 0 }, 0, 0, 0

-- Rises for ever, also when a promoted replica has missed the last ones.
local function next_fence()
  fence = fence or math.max(tonumber(redis.call('GET', fence_key) or '0'), math.floor(at * 1e6))
  fence = fence + 1
  return string.format('%.0f', fence)
end

local function literal(value)
  if type(value) == 'string' then return cjson.encode(value) end
  return 'null'
end

-- tag, exchange, routing key as JSON; or nil and why not.
local function read(raw)
  local ok, message = pcall(cjson.decode, raw)
  if not ok then return nil, tostring(message) end
  if type(message) ~= 'table' then return nil, 'not a JSON object' end
  local properties = message.properties
  if type(properties) ~= 'table' then return nil, 'properties: missing' end
  local tag, info = properties.delivery_tag, properties.delivery_info
  if type(tag) ~= 'string' or not string.find(tag, '^[\33-\126]+$') then
    return nil, 'properties.delivery_tag: not a string of printable ASCII'
  end
  if type(info) ~= 'table' then return nil, 'properties.delivery_info: missing' end
  return tag, literal(info.exchange), literal(info.routing_key)
end

local function hold(index, raw, tag, exchange, routing_key)
  local number = next_fence()
  -- The same bytes may have been published twice by a client that retried; both copies are kept apart.
  if redis.call('HEXISTS', book.unacked, tag) == 1 then tag = tag .. '#' .. number end
  local token = owner .. ':' .. number
  redis.call('HSET', book.unacked, tag, '[' .. raw .. ', ' .. exchange .. ', ' .. routing_key .. ']')
  redis.call('ZADD', book.index, stamp(at), tag)
  redis.call('HSET', book.leases, tag, token .. '\n' .. lease_s .. '\n' .. KEYS[index])
  redis.call('ZADD', book.deadlines, stamp(at + tonumber(lease_s)), tag)
  redis.call('RPOP', KEYS[index])
  for _, value in ipairs({ index, tag, token, begun_count(book, tag), raw }) do reply[#reply + 1] = value end
  claimed, size = claimed + 1, size + #raw
end

-- 'taken', 'empty', or 'full' where the byte bound is reached.
local function take(index)
  while parked < PARKED_MOST do
    local raw = redis.call('LINDEX', KEYS[index], -1)
    if not raw then return 'empty' end
    local tag, exchange, routing_key = read(raw)
    if tag then
      if claimed > 0 and size + #raw > bytes then return 'full' end
      hold(index, raw, tag, exchange, routing_key)
      return 'taken'
    end
    park(book, 'unreadable-' .. next_fence(), { reason = 'unreadable', detail = exchange, list = KEYS[index],
      at = at, begun = 0, message = raw })
    redis.call('RPOP', KEYS[index])
    parked = parked + 1
  end
  return 'full'
end

local function take_level(first)
  local empty, left = {}, width
  local slot = 0
  while left > 0 and claimed < most do
    if not empty[slot] then
      local found = take(first + slot)
      if found == 'full' then return false end
      if found == 'empty' then
        empty[slot], left = true, left - 1
      end
    end
    if turns or empty[slot] then slot = (slot + 1) % width end
  end
  return claimed < most
end

for first = 1, #KEYS, width do
  if not take_level(first) then break end
end
if fence then redis.call('SET', fence_key, string.format('%.0f', fence)) end
reply[1] = parked
return reply
