-- Shared beginning of every script of the leased transport: how a lease and a held message are read and written.
--
-- Bookkeeping keys, always in this order:
--   unacked  hash  tag -> [message, exchange, routing_key]   kombu's own; written byte for byte as kombu does
--   index    zset  tag by the time it was taken or renewed   kombu's own; renewed, so stock workers let it be
--   leases   hash  tag -> TOKEN \n LEASE_S \n LIST           ours; a held message without one is a stock worker's
--   deadlines zset tag by the time its lease ends            ours
--   begun    hash  tag -> runs begun without an end          ours; 0 where it was delivered, and requeued on purpose
--   parked   hash  id -> msgpack of a parked message         ours
-- Messages are spliced as text and never encoded again: cjson turns [] into {} and cuts large integers.

local function bookkeeping(names)
  return {
    unacked = names[1], index = names[2], leases = names[3], deadlines = names[4], begun = names[5], parked = names[6],
  }
end

-- Seconds since the epoch by the server's clock: the only clock that leases know.
local function server_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function stamp(seconds)
  return string.format('%.6f', seconds)
end

local function lease_of(book, tag)
  local value = redis.call('HGET', book.leases, tag)
  if not value then return nil end
  local first = string.find(value, '\n', 1, true)
  local second = string.find(value, '\n', first + 1, true)
  return {
    token = string.sub(value, 1, first - 1),
    lease_s = tonumber(string.sub(value, first + 1, second - 1)),
    list = string.sub(value, second + 1),
  }
end

-- No write without a valid lease: the one check before a message is settled, moved, renewed or given back.
local function held_under(book, tag, token)
  local lease = lease_of(book, tag)
  if lease and lease.token == token then return lease end
  return nil
end

local function forget_lease(book, tag)
  redis.call('HDEL', book.leases, tag)
  redis.call('ZREM', book.deadlines, tag)
end

local function release(book, tag)
  redis.call('HDEL', book.unacked, tag)
  redis.call('ZREM', book.index, tag)
  forget_lease(book, tag)
end

-- Where the JSON string or null that ends at `last` begins.
local function literal_start(text, last)
  if string.byte(text, last) ~= 34 then
    return string.sub(text, last - 3, last) == 'null' and last - 3 or nil
  end
  for at = last - 1, 1, -1 do
    if string.byte(text, at) == 34 then
      local slashes = 0
      while string.byte(text, at - 1 - slashes) == 92 do slashes = slashes + 1 end
      if slashes % 2 == 0 then return at end
    end
  end
  return nil
end

local function skip_back(text, at)
  while at > 1 and string.find(' ,', string.char(string.byte(text, at)), 1, true) do at = at - 1 end
  return at
end

-- The message's own bytes, and the JSON literals of exchange and routing key; nil where it is no such entry.
local function split_entry(entry)
  local last = #entry - 1
  local key_at = literal_start(entry, last)
  if not key_at then return nil end
  local exchange_end = skip_back(entry, key_at - 1)
  local exchange_at = literal_start(entry, exchange_end)
  if not exchange_at then return nil end
  local message_end = skip_back(entry, exchange_at - 1)
  return string.sub(entry, 2, message_end),
    string.sub(entry, exchange_at, exchange_end), string.sub(entry, key_at, last)
end

-- As Keys.dedup makes it.
local function dedup_prefix(book)
  return string.sub(book.parked, 1, -#'parked' - 1) .. 'dedup:'
end

-- How a message lets go of the dedup key that it holds. A hold is DIGEST:TOKEN, as the header `celeray_hold` has it.
-- The record of a key is a hash:
--   id        task id of the submission that has the key
--   until     milliseconds since the epoch until which it is held, whatever becomes of the task
--   m:TOKEN   one for each message of that task that is in a queue or held by a worker
-- A retry publishes its message before the old one is acknowledged, so a task that goes on always has one.

local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- With its last message the key is free, unless its period still runs. Doing it twice changes nothing, and a key that
-- somebody else has by now is left alone: tokens begin with the task's id. Returns 1 where something was let go.
local function drop_hold(prefix, hold)
  local digest, token = string.match(hold, '^(%x+):(.+)$')
  if not digest or #digest ~= 64 then return 0 end
  local record = prefix .. digest
  if redis.call('TYPE', record).ok ~= 'hash' or redis.call('HDEL', record, 'm:' .. token) == 0 then return 0 end
  local ends = redis.call('HGET', record, 'until')
  if redis.call('HLEN', record) > (ends and 2 or 1) then return 1 end
  local rest = ends and tonumber(ends) - milliseconds() or 0
  if rest > 0 then redis.call('PEXPIRE', record, string.format('%.0f', rest)) else redis.call('DEL', record) end
  return 1
end

local function park(book, id, record)
  redis.call('HSET', book.parked, id, cmsgpack.pack(record))
end

-- Lets go of the dedup key that a message which leaves for good holds.
local function drop_hold_of(book, message)
  local ok, decoded = pcall(cjson.decode, message)
  local headers = ok and type(decoded) == 'table' and decoded.headers
  local hold = type(headers) == 'table' and headers.celeray_hold
  if type(hold) == 'string' then drop_hold(dedup_prefix(book), hold) end
end

local function begun_count(book, tag)
  return tonumber(redis.call('HGET', book.begun, tag) or '0')
end

-- Puts a held message back on a list, or parks it where too many runs of it have begun and none has ended.
-- poison_after 0: never parks. Returns 'pushed', 'poison', or 'gone' where the entry was not there any more.
-- changed: the message as it shall be there; nil: as it is held.
local function put_back(book, tag, list, push, poison_after, changed)
  local entry = redis.call('HGET', book.unacked, tag)
  local message = entry and split_entry(entry)
  message = message and (changed or message)
  if not entry then
    release(book, tag)
    return 'gone'
  end
  local begun = begun_count(book, tag)
  local verdict = 'pushed'
  if not message then
    park(book, tag, { reason = 'unreadable', detail = 'not an entry of kombu', list = list, at = server_time(),
      begun = begun, message = entry })
    verdict = 'poison'
  elseif poison_after > 0 and begun >= poison_after then
    park(book, tag, { reason = 'poison', detail = begun .. ' runs begun, none ended', list = list,
      at = server_time(), begun = begun, message = message })
    redis.call('HDEL', book.begun, tag)
    drop_hold_of(book, message)
    verdict = 'poison'
  else
    redis.call(push, list, message)
  end
  release(book, tag)
  return verdict
end
