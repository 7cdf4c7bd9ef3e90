-- Where letters are: parked, or waiting until they are sent again. Of those that an operator sent or discarded the newest
-- 10,000 of the last hour are remembered, without their messages.
local PAST_S, PAST_MOST = 3600, 10000

local function scheduled_keys(book)
  local base = string.sub(book.parked, 1, -#'parked' - 1) .. 'scheduled'
  return base, base .. ':due'
end

-- Ids of those that wait and whose broker is no Redis, by the time when they may be claimed for publishing. They are in no
-- other schedule, so who can't publish them never looks at them.
local function publish_key(book)
  return (scheduled_keys(book)) .. ':publish'
end

local function past_keys(book)
  return book.parked .. ':past', book.parked .. ':past:at'
end

local function letter_at(book, id)
  return redis.call('HGET', book.parked, id) or redis.call('HGET', (scheduled_keys(book)), id)
end

local function remove_letter(book, id)
  local records, due = scheduled_keys(book)
  redis.call('HDEL', book.parked, id)
  redis.call('HDEL', records, id)
  redis.call('ZREM', due, id)
  redis.call('ZREM', publish_key(book), id)
end

local function schedule_publish(book, id, record)
  redis.call('HSET', (scheduled_keys(book)), id, cmsgpack.pack(record))
  redis.call('ZADD', publish_key(book), stamp(record.due), id)
end

-- Of a letter that is there. Its attempts stay with it, for an operator, if it can't be published.
local function make_due(book, id, raw, list, message)
  local record = cmsgpack.unpack(raw)
  record.list, record.message, record.due, record.original = list, message, server_time(), nil
  remove_letter(book, id)
  schedule_publish(book, id, record)
end

local function forget_past(records, times, ids)
  for _, id in ipairs(ids) do
    redis.call('HDEL', records, id)
    redis.call('ZREM', times, id)
  end
end

local function names_in(message)
  local ok, decoded = pcall(cjson.decode, message)
  local headers = ok and type(decoded) == 'table' and decoded.headers
  if type(headers) ~= 'table' then return nil, nil end
  return type(headers.task) == 'string' and headers.task or nil, type(headers.id) == 'string' and headers.id or nil
end

-- state: redriven or discarded. What was discarded keeps no text of its attempts either.
local function remember(book, id, raw, state)
  local ok, record = pcall(cmsgpack.unpack, raw)
  if not ok or type(record) ~= 'table' or type(record.message) ~= 'string' then return end
  local records, times, at = past_keys(book)
  at = server_time()
  record.task, record.task_id = names_in(record.message)
  record.size, record.message, record.state, record.gone = #record.message, '', state, at
  record.original = nil
  if state == 'discarded' then record.attempts = nil end
  redis.call('HSET', records, id, cmsgpack.pack(record))
  redis.call('ZADD', times, stamp(at), id)
  forget_past(records, times, redis.call('ZRANGEBYSCORE', times, '-inf', stamp(at - PAST_S), 'LIMIT', 0, 100))
  local extra = redis.call('ZCARD', times) - PAST_MOST
  if extra > 0 then forget_past(records, times, redis.call('ZRANGE', times, 0, extra - 1)) end
end

-- The dedup key of a record: what waits holds it, and what could not be read when it was parked may. For others this
-- changes nothing.
local function let_go(book, raw)
  local ok, record = pcall(cmsgpack.unpack, raw)
  if ok and type(record) == 'table' and type(record.message) == 'string' then drop_hold_of(book, record.message) end
end

-- The key was let go when the message was parked. It is held again for the run to come, unless somebody else has it.
local function hold_again(book, message, most_ms)
  local headers = message.headers
  if type(headers) ~= 'table' or type(headers.celeray_hold) ~= 'string' or type(headers.id) ~= 'string' then return end
  local digest, token = string.match(headers.celeray_hold, '^(%x+):(.+)$')
  if not digest or #digest ~= 64 then return end
  local record = dedup_prefix(book) .. digest
  local kind = redis.call('TYPE', record).ok
  if kind ~= 'none' and (kind ~= 'hash' or redis.call('HGET', record, 'id') ~= headers.id) then return end
  redis.call('HSET', record, 'id', headers.id, 'm:' .. token, '1')
  redis.call('PEXPIRE', record, string.format('%.0f', math.max(most_ms, redis.call('PTTL', record))))
end
