-- token_bucket.py on the server: all buckets of a call at once, by the server's clock.
-- KEYS: the buckets. ARGV: "take" or "debit", DEBT_MINUTES; then for each bucket its permits per
-- minute and those of the charge. Returns the number of the first that refuses, or 0; then the
-- levels. Numbers are written as %.17g: Lua's own way would round a time to a tenth of a millisecond.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local is_debit = ARGV[1] == 'debit'
local kept = redis.call('MGET', unpack(KEYS))
local refused, levels, went_back = 0, {}, {}
for i = 1, #KEYS do
  local per_minute, permits = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local level, moment
  if kept[i] then
    level, moment = string.match(kept[i], '^(%S+) (%S+)$')
    level, moment = tonumber(level), tonumber(moment)
  end
  if not level or not moment then
    level, moment = per_minute, now
  end
  if now > moment then
    level = level + (now - moment) * per_minute / 60
  end
  if not (level < per_minute) then
    level = per_minute
  end
  levels[i], went_back[i] = level, now < moment
  local is_met = level >= permits
  if permits <= 0 then
    is_met = level > 0
  end
  if not is_debit and refused == 0 and not is_met then
    refused = i
  end
end
local result = { refused }
for i = 1, #KEYS do
  local per_minute, permits = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local level = levels[i]
  if refused == 0 and permits ~= 0 then
    if is_debit then
      level = math.min(math.max(level - permits, -tonumber(ARGV[2]) * per_minute), per_minute)
    else
      level = level - math.abs(permits)
    end
  end
  -- After the clock went back, the earlier moment is stored even when nothing is taken.
  if refused == 0 and permits ~= 0 or went_back[i] then
    -- The key expires when the bucket is full again.
    local idle = math.max(math.ceil((per_minute - level) * 60000 / per_minute), 1)
    local state = string.format('%.17g %.17g', level, now)
    redis.call('SET', KEYS[i], state, 'PX', string.format('%d', idle))
  end
  result[i + 1] = string.format('%.17g', level)
end
return result
