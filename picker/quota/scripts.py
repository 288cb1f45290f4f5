"""What the store runs: each script is one step, and nothing comes between.

A counter is a hash of two fields: `e`, when its window ends (ms of the store's own clock, by which all replicas count),
and `u`, what was used in it, in thousandths. It goes a second after its window.
"""

__all__ = ["RESERVE", "SETTLE"]

RESERVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local used, ends, refused, longest = {}, {}, -1, -1
for i, key in ipairs(KEYS) do
  local at = 3 * (i - 1)
  local length, cost, amount = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local known = redis.call('HMGET', key, 'e', 'u')
  ends[i] = now - now % length + length
  used[i] = tonumber(known[1]) == ends[i] and tonumber(known[2]) or 0
  if used[i] + math.max(cost, 1) > amount and ends[i] > longest then
    refused, longest = i - 1, ends[i]
  end
end
if refused < 0 then
  for i, key in ipairs(KEYS) do
    used[i] = used[i] + tonumber(ARGV[3 * i - 1])
    redis.call('HSET', key, 'e', string.format('%.0f', ends[i]), 'u', string.format('%.0f', used[i]))
    redis.call('PEXPIREAT', key, string.format('%.0f', ends[i] + 1000))
  end
end
return {now, refused, used, ends}
"""
"""KEYS: counters. ARGV, for each: length of its window in ms, cost, amount. All of them are charged, or none.

Returns the time in ms, the index of the limit that is reached (the one that lasts longest; -1: none), and of each limit
what is used of it and when its window ends.
"""

SETTLE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
  local at = 3 * (i - 1)
  local length, reserved, change = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local ends = now - now % length + length
  if ends == reserved or change > 0 then
    local known = redis.call('HMGET', key, 'e', 'u')
    local used = tonumber(known[1]) == ends and tonumber(known[2]) or 0
    used = math.max(used + change, 0)
    redis.call('HSET', key, 'e', string.format('%.0f', ends), 'u', string.format('%.0f', used))
    redis.call('PEXPIREAT', key, string.format('%.0f', ends + 1000))
  end
end
return now
"""
"""KEYS: counters, one of them perhaps more than once. ARGV, for each: length of its window, end of the one it was
reserved in, change. What is given back to a window that has passed is nobody's; what was used beyond a reservation
counts in the window that lasts.
"""
