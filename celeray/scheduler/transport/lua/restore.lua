-- Puts messages back whose lease has ended, at the front, in the order in which they were taken; and those of stock
-- workers, which have no lease, after the visibility timeout. Doing it twice changes nothing.
-- After a restart or a promotion nothing is restored for one lease time: owners that live renew theirs first.
-- KEYS: 1-6 bookkeeping keys, 7 marker: hash of the server's run id and the time since when it is known.
-- ARGV: 1 lease in seconds, 2 visibility timeout in seconds, 3 messages at most, 4 poison_after, 5 key prefix,
--       6 separator of priorities, then the priority steps.
-- Returns: {1 where it still waits, restored, {tags parked}, {tags of stock workers bound to a named exchange}}.
local book, marker = bookkeeping(KEYS), KEYS[7]
local lease_s, visibility_s, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local poison_after, prefix, separator = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local at = server_time()

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local known = redis.call('HMGET', marker, 'run_id', 'since')
if known[1] ~= run_id then
  redis.call('HSET', marker, 'run_id', run_id, 'since', stamp(at))
  return { 1, 0, {}, {} }
end
if at - tonumber(known[2]) < lease_s then return { 1, 0, {}, {} } end

local restored, poisoned, bound = 0, {}, {}

local function newest_first(one, other)
  return one.fence > other.fence
end

local function restore_leased()
  local ended = {}
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', book.deadlines, '-inf', stamp(at), 'LIMIT', 0, most)) do
    local lease = lease_of(book, tag)
    local taken = tonumber(redis.call('ZSCORE', book.index, tag) or '-1')
    local ends = tonumber(redis.call('ZSCORE', book.deadlines, tag))
    -- Another time in the index is a stock worker's, who took the message after a stock restore.
    if not lease or math.abs(taken + lease.lease_s - ends) > 0.001 then
      forget_lease(book, tag)
    else
      ended[#ended + 1] = { tag = tag, list = lease.list, fence = tonumber(string.match(lease.token, ':(%d+)$')) }
    end
  end
  table.sort(ended, newest_first)
  for _, item in ipairs(ended) do
    local verdict = put_back(book, item.tag, item.list, 'RPUSH', poison_after)
    if verdict == 'pushed' then restored = restored + 1 end
    if verdict == 'poison' then poisoned[#poisoned + 1] = item.tag end
  end
end

local function list_for(queue, message)
  local priority = tonumber(type(message.properties) == 'table' and message.properties.priority or 0) or 0
  priority = math.max(0, math.min(9, math.floor(priority)))
  local step = tonumber(ARGV[7])
  for at_step = 7, #ARGV do
    if tonumber(ARGV[at_step]) <= priority then step = tonumber(ARGV[at_step]) end
  end
  return prefix .. queue .. (step ~= 0 and separator .. step or '')
end

local function restore_stock(tag)
  local entry = redis.call('HGET', book.unacked, tag)
  if not entry then return redis.call('ZREM', book.index, tag) end
  local ok, parts = pcall(cjson.decode, entry)
  if ok and type(parts) == 'table' and parts[2] == '' and type(parts[3]) == 'string' and type(parts[1]) == 'table' then
    if put_back(book, tag, list_for(parts[3], parts[1]), 'RPUSH', 0) == 'pushed' then restored = restored + 1 end
  elseif ok then
    bound[#bound + 1] = tag
  else
    put_back(book, tag, '', 'RPUSH', 0)
    poisoned[#poisoned + 1] = tag
  end
end

restore_leased()
local old = redis.call('ZRANGEBYSCORE', book.index, '-inf', stamp(at - visibility_s), 'LIMIT', 0, most)
for _, tag in ipairs(old) do
  if redis.call('HEXISTS', book.leases, tag) == 0 then restore_stock(tag) end
end
return { 0, restored, poisoned, bound }
