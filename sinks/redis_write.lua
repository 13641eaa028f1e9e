-- Write what one Kafka partition's totals have become, or nothing at all.
--
-- KEYS[1] position, KEYS[2] contents, then the keys that the commands name by their number.
-- ARGV  token of the writer; offsets from, to; last offset it saw acknowledged, or ''; TTL of contents in seconds
--       n, then n arguments of HSET contents
--       n, then n arguments of HSET position
--       then repeated: command, number of the key, TTL in seconds, highest ranks to keep (0: all), n, n arguments;
--       `append` puts each value behind what its key holds: that key and those after it; a new one gets the TTL;
--       `people` is PFADD of numbers of four bytes, joined;
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

local function append(first, ttl)  -- of what is there nothing is read, copied, or written to an append-only file again
  local n = tonumber(ARGV[i])
  for place = 1, n do
    local value = ARGV[i + place]
    if redis.call('APPEND', KEYS[first + place - 1], value) == #value then
      redis.call('EXPIRE', KEYS[first + place - 1], ttl)
    end
  end
  i = i + n + 1
end

local function people(key)
  local numbers, sub = ARGV[i + 1], string.sub
  for a = 1, #numbers, 16000 do
    local some, filled = {}, 0
    for place = a, math.min(a + 15999, #numbers), 4 do
      filled = filled + 1
      some[filled] = sub(numbers, place, place + 3)
    end
    redis.call('PFADD', key, unpack(some, 1, filled))
  end
  i = i + 2
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
  local command, number, ttl, keep = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local key = KEYS[number]
  i = i + 4
  if command == 'append' then
    append(number, ttl)
  else
    if command == 'rows' then
      rows(key)
    elseif command == 'people' then
      people(key)
    else
      write(command, key)
    end
    if keep > 0 then
      redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1)
    end
    redis.call('EXPIRE', key, ttl)
  end
end
-- Last: after a first write Redis no longer checks a script for being out of memory, and EXPIRE passes that check.
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[5]))
return {'written', to}
