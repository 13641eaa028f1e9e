-- Write what one Kafka partition's totals have become, or nothing at all.
--
-- KEYS[1] position, KEYS[2] contents, then the keys that the commands name by their number.
-- ARGV  token of the writer; offsets from, to; last offset it saw acknowledged, or ''; TTL of contents in seconds
--       n, then n arguments of HSET contents
--       n, then n arguments of HSET position
--       then repeated: command, number of the key, TTL in seconds, highest ranks to keep (0: all), n, n arguments;
--       `append` puts values behind what the fields of a hash hold, its arguments are those of HSET;
--       `rows` is HSET of names and rows of 72 bytes, joined: the names' sizes (two bytes each), names, rows
-- Answers {outcome, next}: written, landed (already there), lost (Redis forgot writes), fenced, gap.

local position = redis.call('HMGET', KEYS[1], 'owner', 'next')
local owner, stored = position[1], tonumber(position[2] or '')
local from, to, acknowledged = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if not owner or (acknowledged and (not stored or stored < acknowledged)) then
  return {'lost', stored or -1}
end
if owner ~= ARGV[1] then
  return {'fenced', stored or -1}
end

local i = 6
local function write(command, key)  -- unpack has a limit: 4000 arguments at a time
  local n = tonumber(ARGV[i])
  local first, last = i + 1, i + n
  for a = first, last, 4000 do
    redis.call(command, key, unpack(ARGV, a, math.min(a + 3999, last)))
  end
  i = last + 1
end

local function append(key)
  local first, last = i + 1, i + tonumber(ARGV[i])
  for a = first, last, 4000 do
    local fields = {}
    for field = a, math.min(a + 3999, last), 2 do
      fields[#fields + 1] = ARGV[field]
    end
    for place, held in ipairs(redis.call('HMGET', key, unpack(fields))) do
      if held then
        local value = a + 2 * place - 1
        ARGV[value] = held .. ARGV[value]
      end
    end
  end
  write('HSET', key)
end

local function rows(key)
  local sizes, names, values = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local byte, sub, name = string.byte, string.sub, 1
  for a = 1, #sizes / 2, 2000 do
    local pairs, filled = {}, 0
    for row = a, math.min(a + 1999, #sizes / 2) do
      local low, high = byte(sizes, 2 * row - 1, 2 * row)
      local size = low + 256 * high
      pairs[filled + 1] = sub(names, name, name + size - 1)
      pairs[filled + 2] = sub(values, 72 * row - 71, 72 * row)
      name, filled = name + size, filled + 2
    end
    redis.call('HSET', key, unpack(pairs, 1, filled))
  end
  i = i + 4
end

write('HSET', KEYS[2])
if stored and (stored > to or (stored == to and from < to)) then
  return {'landed', stored}
end
if stored and from > stored then
  return {'gap', stored}
end
write('HSET', KEYS[1])
while ARGV[i] do
  local command, key, ttl, keep = ARGV[i], KEYS[tonumber(ARGV[i + 1])], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  i = i + 4
  if command == 'append' then
    append(key)
  elseif command == 'rows' then
    rows(key)
  else
    write(command, key)
  end
  if keep > 0 then
    redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1)
  end
  redis.call('EXPIRE', key, ttl)
end
-- Last: after a first write Redis no longer checks a script for being out of memory, and EXPIRE passes that check.
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[5]))
return {'written', to}
