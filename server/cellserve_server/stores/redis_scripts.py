"""The Lua scripts of the Redis store. Each does its work for many records, one after the other, with nobody in between.

A record is a hash: ``e`` epoch, ``o`` owner, ``m`` meta, ``0`` and ``1`` the states, ``x`` expiry and ``p`` the time
until which Redis was told to keep it, both in unix seconds of our clock, ``t`` tombstone (there only if it is one).

Every script has the time of our clock as its first argument. ``KEYS`` are the records', each followed by its bucket's
index where ``keys_each`` is 2; ``args_each`` further arguments belong to each record. Epochs are compared as text: as
Lua's numbers they would lose digits above 2^53.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

# Redis keeps records a while beyond their expiry, so that no clock of a machine can end them early; what has expired
# by our clock is gone for us. It is told again only when less than the first of these is left, as each time costs
# as much as the write itself.
LEAST_SLACK_S = 60
SLACK_S = 120

_PRELUDE = f"""
local now = tonumber(ARGV[1])
local out = {{}}

local function alive(expire, tombstone)
  return expire and not tombstone and tonumber(expire) > now
end

-- Has Redis keep a record until some time after its expiry.
local function keep(key, expire)
  local until_time = tonumber(expire) + {SLACK_S}
  redis.call('HSET', key, 'p', string.format('%.3f', until_time))
  redis.call('PEXPIRE', key, string.format('%.0f', math.max((until_time - now) * 1000, 1)))
end
"""


class Script(NamedTuple):
    """A script.

    Attributes:
        text: in Lua.
        sha: the name by which Redis knows it.
        keys_each: keys of each record.
        args_each: arguments of each record.
    """

    text: str
    sha: str
    keys_each: int
    args_each: int


def _script(keys_each: int, args_each: int, body: str) -> Script:
    text = f"""{_PRELUDE}
for n = 1, #KEYS / {keys_each} do
  local key, index = KEYS[(n - 1) * {keys_each} + 1], KEYS[n * {keys_each}]
  local a = (n - 1) * {args_each} + 2
  out[n] = false
{body}
end
return out
"""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys_each, args_each)


# Answers epoch, owner, tombstone.
LOOK = _script(
    1,
    0,
    """
  local r = redis.call('HMGET', key, 'e', 'o', 't', 'x')
  if r[4] and tonumber(r[4]) > now then out[n] = {r[1], r[2], r[3]} end
""",
)

# Answers epoch, owner, meta, both states, expiry.
READ = _script(
    1,
    0,
    """
  local r = redis.call('HMGET', key, 'e', 'o', 'm', '0', '1', 'x', 't')
  if alive(r[6], r[7]) then out[n] = {r[1], r[2], r[3], r[4], r[5], r[6]} end
""",
)

# epoch, owner, next epoch. Answers as READ.
CLAIM = _script(
    1,
    3,
    """
  local r = redis.call('HMGET', key, 'e', 'x', 't')
  if r[1] == ARGV[a] and alive(r[2], r[3]) then
    redis.call('HSET', key, 'o', ARGV[a + 1], 'e', ARGV[a + 2])
    out[n] = redis.call('HMGET', key, 'e', 'o', 'm', '0', '1', 'x')
  end
""",
)

# epoch, owner, meta, both states, expiry, id. Answers the epoch.
CREATE = _script(
    2,
    7,
    """
  local r = redis.call('HMGET', key, 'e', 'x', 't')
  if not alive(r[2], r[3]) then
    local epoch, old = ARGV[a], r[1]
    if old and (#old > #epoch or (#old == #epoch and old >= epoch)) then
      redis.call('HINCRBY', key, 'e', 1)
      epoch = redis.call('HGET', key, 'e')
    end
    redis.call('DEL', key)
    redis.call('HSET', key, 'e', epoch, 'o', ARGV[a + 1], 'm', ARGV[a + 2], '0', ARGV[a + 3], '1', ARGV[a + 4],
      'x', ARGV[a + 5])
    keep(key, ARGV[a + 5])
    redis.call('ZADD', index, 0, ARGV[a + 6])
    out[n] = epoch
  end
""",
)

# epoch, place, state, expiry. Answers 1.
WRITE = _script(
    1,
    4,
    f"""
  local r = redis.call('HMGET', key, 'e', 'x', 't', 'p')
  if r[1] == ARGV[a] and alive(r[2], r[3]) then
    redis.call('HSET', key, ARGV[a + 1], ARGV[a + 2], 'x', ARGV[a + 3])
    if not r[4] or tonumber(r[4]) < tonumber(ARGV[a + 3]) + {LEAST_SLACK_S} then keep(key, ARGV[a + 3]) end
    out[n] = 1
  end
""",
)

# epoch, meta, both states, expiry. Answers 1.
REWRITE = _script(
    1,
    5,
    """
  local r = redis.call('HMGET', key, 'e', 'x', 't')
  if r[1] == ARGV[a] and alive(r[2], r[3]) then
    redis.call('HSET', key, 'm', ARGV[a + 1], '0', ARGV[a + 2], '1', ARGV[a + 3], 'x', ARGV[a + 4])
    keep(key, ARGV[a + 4])
    out[n] = 1
  end
""",
)


def _burial(first: str) -> Script:
    """epoch, tombstone, expiry, id. Answers 1."""
    return _script(
        2,
        4,
        f"""
  local r = redis.call('HMGET', key, 'e', 'x', 't')
  if r[1] == ARGV[a] and alive(r[2], r[3]) then
    {first}
    redis.call('HSET', key, 'o', '', 't', ARGV[a + 1], 'x', ARGV[a + 2])
    keep(key, ARGV[a + 2])
    redis.call('ZREM', index, ARGV[a + 3])
    out[n] = 1
  end
""",
    )


BURY = _burial("redis.call('HDEL', key, 'm', '0', '1')")
SET_ASIDE = _burial("")

# epoch. Answers nothing.
RELEASE = _script(
    1,
    1,
    """
  local r = redis.call('HMGET', key, 'e', 'x', 't')
  if r[1] == ARGV[a] and alive(r[2], r[3]) then redis.call('HSET', key, 'o', '') end
""",
)

# id. Takes names out of the index whose record is gone. Answers 1 for each.
PURGE = _script(
    2,
    1,
    """
  local r = redis.call('HMGET', key, 'x', 't')
  if not alive(r[1], r[2]) then
    if r[1] and not r[2] then redis.call('DEL', key) end
    if redis.call('ZREM', index, ARGV[a]) == 1 then out[n] = 1 end
  end
""",
)

# content, expiry. A model is a hash, too: ``c`` content, ``x`` expiry.
PUT_MODEL = _script(
    1,
    2,
    """
  local old = redis.call('HGET', key, 'x')
  local expire = ARGV[a + 1]
  if old and tonumber(old) > tonumber(expire) then expire = old end
  redis.call('HSET', key, 'c', ARGV[a], 'x', expire)
  keep(key, expire)
  out[n] = 1
""",
)

GET_MODEL = _script(
    1,
    0,
    """
  local r = redis.call('HMGET', key, 'x', 'c')
  if alive(r[1], false) then out[n] = r[2] end
""",
)

# expiry. Answers 1.
KEEP_MODEL = _script(
    1,
    1,
    """
  local old = redis.call('HGET', key, 'x')
  if alive(old, false) then
    if tonumber(ARGV[a]) > tonumber(old) then
      redis.call('HSET', key, 'x', ARGV[a])
      keep(key, ARGV[a])
    end
    out[n] = 1
  end
""",
)
