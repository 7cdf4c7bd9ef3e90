-- Adds what a bridge counted since its last write to the sums over all bridges. The values given are the
-- bridge's own totals, so that writing the same ones twice changes nothing.
-- KEYS[1] hash of sums   KEYS[2] hash of this bridge's last totals
-- ARGV[1] seconds that KEYS[2] lives   ARGV[2..] pairs of series and the bridge's total
-- Returns the number of series that grew.
local grew = 0
for i = 2, #ARGV, 2 do
  local series, total = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', KEYS[2], series)
  local growth = tonumber(total) - tonumber(before or '0')
  if growth > 0 then
    redis.call('HINCRBYFLOAT', KEYS[1], series, string.format('%.17g', growth))
    redis.call('HSET', KEYS[2], series, total)
    grew = grew + 1
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return grew
