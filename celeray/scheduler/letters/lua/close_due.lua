-- After a claimed letter was published and confirmed, or could not be for good. Of one that was changed or discarded
-- meanwhile nothing is changed.
-- KEYS: 1-6 bookkeeping keys.
-- ARGV: 1 id, 2 SHA-1 of its record, 3 'sent', 'redriven' (sent for an operator), 'parked' (it can't be sent) or 'later' (the
--       broker did not answer), 4 detail of what is parked, or seconds until it may be claimed again.
-- Returns: 1, or 0 where it is not there as it was.
local book, id = bookkeeping(KEYS), ARGV[1]
local raw = redis.call('HGET', (scheduled_keys(book)), id)
if not raw or redis.sha1hex(raw) ~= ARGV[2] then return 0 end
if ARGV[3] == 'later' then
  redis.call('ZADD', publish_key(book), stamp(server_time() + tonumber(ARGV[4])), id)
  return 1
end
remove_letter(book, id)
if ARGV[3] == 'redriven' then remember(book, id, raw, 'redriven') end
if ARGV[3] == 'parked' then
  local record = cmsgpack.unpack(raw)
  record.detail, record.due = ARGV[4], nil
  park(book, id, record)
end
return 1
