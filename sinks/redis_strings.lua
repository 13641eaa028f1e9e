-- Append values to strings, and bound what keys hold and how long: the last command of a write's transaction.
--
-- KEYS  n strings, then keys that have been written
-- ARGV  TTL in seconds; n; a value for each string, a new one gets the TTL; for each of the other keys the highest ranks
--       that its sorted set keeps, 0 for all

local ttl, strings = ARGV[1], tonumber(ARGV[2])
for place, key in ipairs(KEYS) do
  local told = ARGV[place + 2]
  if place > strings then
    if told ~= '0' then
      redis.call('ZREMRANGEBYRANK', key, 0, -tonumber(told) - 1)
    end
    redis.call('EXPIRE', key, ttl)
  elseif redis.call('APPEND', key, told) == #told then
    redis.call('EXPIRE', key, ttl)
  end
end
