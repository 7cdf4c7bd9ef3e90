-- Takes messages off their lists under a lease, most urgent first. A message is stored as held before it leaves its
-- list, so there is no moment in which it is nowhere; one that can't be read is parked. Lists of paused queues are left.
-- KEYS: the lists, level by level, then the hash of paused queues; no others, since with client tracking a change of any
--       key here wakes the waiting worker.
-- ARGV: 1-6 bookkeeping keys, 7 fence key, 8 messages at most, 9 bytes at most (the first one always passes), 10 owner,
--       11 lease in seconds, 12 lists a level, 13 '1': within a level the lists take turns, else the first goes first,
--       14 messages more than that, of 15 the first so many levels only, 16 how many messages of a list may be skipped,
--       the queues of a level's lists, then for each limited class: its name, how many more of it may be taken, and the
--       level (from 0) from which on that holds.
-- Returns: {parked, skipped, the first level (from 0) in which something may be left, {numbers of paused queues},
--           whether a list was not looked through since too many of it were skipped, whether any was taken behind
--           skipped ones (0 or 1), then for each message: index in KEYS, tag, token, runs begun before or '' where it
--           was never delivered, message}.
local book, fence_key = bookkeeping(ARGV), ARGV[7]
local most, bytes, owner, lease_s = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11]
local width, turns = tonumber(ARGV[12]), ARGV[13] == '1'
local over, urgent_levels, depth = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local FIRST_QUEUE = 17
local PARKED_MOST = 1000
-- Bytes that may be skipped, as times of ARGV 9: more than so many messages are looked past now and then only.
local DEPTH_USUAL, BYTES_DEEP = 1000, 4
-- Messages that are read at once behind those that were skipped.
local CHUNK = 64
-- Stands in a list for what was taken out of its middle, until the end of this call.
local TAKEN = 'celeray: taken'

local at, fence = server_time(), nil
local lists, paused_key = #KEYS - 1, KEYS[#KEYS]
local reply, claimed, size, parked, skipped = { 0, 0, 0, {}, 0, 0 }, 0, 0, 0, 0

-- By slot in a level, from 0.
local paused = {}
local function read_paused()
  local names = {}
  for _, name in ipairs(redis.call('HKEYS', paused_key)) do names[name] = true end
  for slot = 0, width - 1 do
    if names[ARGV[FIRST_QUEUE + slot]] then
      paused[slot] = true
      table.insert(reply[4], slot + 1)
    end
  end
end

local limits, limited = {}, #ARGV >= FIRST_QUEUE + width
for first = FIRST_QUEUE + width, #ARGV, 3 do
  limits[ARGV[first]] = { room = tonumber(ARGV[first + 1]), level = tonumber(ARGV[first + 2]) }
end

local function has_room(class, level)
  local limit = class and limits[class]
  return not limit or level < limit.level or limit.room > 0
end

-- As celeray/scheduler/message_class.py reads it.
local function class_of(message)
  local headers = message.headers
  if type(headers) ~= 'table' then return '' end
  if type(headers.celeray_class) == 'string' then return headers.celeray_class end
  if type(headers.task) ~= 'string' then return '' end
  if type(headers.tenant) == 'string' then return headers.task .. '\n' .. headers.tenant end
  return headers.task
end

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

-- tag, exchange, routing key as JSON, and the class; or nil and why not.
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
  return tag, literal(info.exchange), literal(info.routing_key), limited and class_of(message)
end

-- Of each list: messages that were skipped, those taken behind them, and what was read of those behind.
local skips, gaps, chunks, skipped_bytes = {}, {}, {}, 0
local skipped_bytes_most = depth > DEPTH_USUAL and BYTES_DEEP * bytes or bytes

-- The next message of a list that was not skipped; nil: there is none, or none as near as one may look.
local function peek(index)
  local beside = skips[index]
  if not beside then return redis.call('LINDEX', KEYS[index], -1) end
  local first = beside + (gaps[index] or 0)
  if beside >= depth or skipped_bytes > skipped_bytes_most then
    if redis.call('LLEN', KEYS[index]) > first then reply[5] = 1 end
    return nil
  end
  local chunk = chunks[index]
  if not chunk or #chunk == 0 then
    -- Of large messages fewer.
    local left = math.floor((skipped_bytes_most - skipped_bytes) * skipped / skipped_bytes) + 1
    chunk = redis.call('LRANGE', KEYS[index], -first - math.min(CHUNK, left), -first - 1)
    chunks[index] = chunk
  end
  return chunk[#chunk]
end

local function skip(index, raw)
  if skips[index] then table.remove(chunks[index]) end
  skips[index] = (skips[index] or 0) + 1
  skipped, skipped_bytes = skipped + 1, skipped_bytes + #raw
end

-- Takes what `peek` has returned off its list.
local function remove(index)
  if not skips[index] then
    redis.call('RPOP', KEYS[index])
    return
  end
  table.remove(chunks[index])
  local taken = gaps[index] or 0
  redis.call('LSET', KEYS[index], -1 - skips[index] - taken, TAKEN)
  gaps[index] = taken + 1
end

-- One walk through a list, and not one for each message.
local function close_gaps()
  for index, count in pairs(gaps) do redis.call('LREM', KEYS[index], -count, TAKEN) end
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
  if skips[index] then reply[6] = 1 end
  remove(index)
  local begun = redis.call('HGET', book.begun, tag) or ''
  for _, value in ipairs({ index, tag, token, begun, raw }) do reply[#reply + 1] = value end
  claimed, size = claimed + 1, size + #raw
end

local function park_unread(index, raw, why)
  park(book, 'unreadable-' .. next_fence(), { reason = 'unreadable', detail = why, list = KEYS[index],
    at = at, begun = 0, message = raw })
  remove(index)
  parked = parked + 1
end

-- A class without room shows in the text already. Another text that looks like it is skipped for a while at worst.
local CLASS_BEFORE = '"celeray_class": "'
local function surely_full(raw, level)
  local before = limited and string.find(raw, CLASS_BEFORE, 1, true)
  if not before then return false end
  local first = before + #CLASS_BEFORE
  local after = string.find(raw, '"', first, true) or first
  return not has_room(string.sub(raw, first, after - 1), level)
end

-- 'taken', 'empty', or 'full' where the byte bound is reached.
local function take(index, level)
  while parked < PARKED_MOST do
    local raw = peek(index)
    if not raw then return 'empty' end
    if surely_full(raw, level) then
      skip(index, raw)
    else
      local tag, exchange, routing_key, class = read(raw)
      if not tag then
        park_unread(index, raw, exchange)
      elseif limited and not has_room(class, level) then
        skip(index, raw)
      else
        if claimed > 0 and size + #raw > bytes then return 'full' end
        hold(index, raw, tag, exchange, routing_key)
        if limited and limits[class] then limits[class].room = limits[class].room - 1 end
        return 'taken'
      end
    end
  end
  return 'full'
end

-- Whether the next level has its turn.
local function take_level(first, level)
  local allowed = level < urgent_levels and most + over or most
  local done, left = {}, width
  for slot = 0, width - 1 do
    if paused[slot] then
      done[slot], left = true, left - 1
    end
  end
  local slot = 0
  while left > 0 and claimed < allowed do
    if not done[slot] then
      local found = take(first + slot, level)
      if found == 'full' then return false end
      if found == 'empty' then
        done[slot], left = true, left - 1
      end
    end
    if turns or done[slot] then slot = (slot + 1) % width end
  end
  return left == 0
end

read_paused()
local level = 0
while level * width < lists and take_level(level * width + 1, level) do level = level + 1 end
close_gaps()
if fence then redis.call('SET', fence_key, string.format('%.0f', fence)) end
-- Writes of one's own end the tracking of a key, and any read takes up that of all keys again.
if claimed + parked > 0 then redis.call('EXISTS', paused_key) end
reply[1], reply[2], reply[3] = parked, skipped, level
return reply
