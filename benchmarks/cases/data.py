"""Inputs as they occur, the same in each run: texts, conversations of agents, block hashes, pools."""

import json
import random
import re
from array import array
from functools import cache
from typing import Any

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
BYTES_PER_TOKEN = 4
# Lines of chat as people and models write it: a newline every 60 characters or so, quotes, code, a little beyond ASCII.
ENGLISH = """\
Could you explain why the cache stays cold for so long after a restart of one replica behind the gateway?
I stopped the server, copied its log (about 2 GB) to another disk, and started it again with the same flags.
The first answers took nine seconds; the same question asked a minute later took less than one.

Here is what I would check first, in this order:
1. **Is the prefix the same?** A timestamp in the system prompt changes every block behind it.
2. **Does the request reach the same replica?** Look for the `x-served-by` header of both answers.
- The log says "evicted 512 blocks", which is more than I would expect for a model of this size.
```python
for name, value in sorted(response.headers.items()):
    print(f"{name}: {value}", file=sys.stderr)
    if name.startswith("x-"):
        seen.append((name, value))
```
It’s a good idea to measure before changing anything — a naïve estimate is easily off by a factor of ten.
Thanks! That was it: the prompt had today’s date in its first line, so nothing could be shared… 😀
"""
CHINESE = """\
请解释一下为什么重启之后缓存这么久都是冷的？我先停止了服务器，把日志复制到另一块磁盘，然后用相同的参数重新启动。
第一次回答用了九秒，一分钟之后问同样的问题只用了不到一秒。

我会按这个顺序检查：首先看前缀是否相同，其次看请求是否到达同一个副本（请比较两次回答的 header ）。
"""
CHUNK = (
    b'data: {"id":"chatcmpl-4f3a5c1d2b7e4a90","object":"chat.completion.chunk","created":1694268190,'
    b'"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" token"},'
    b'"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":null,"prompt_token_ids":null}\n\n'
)
"""An event of a streamed answer, as vLLM writes it."""


def text(source: str, size: int, rng: random.Random) -> str:
    """About `size` bytes of the words (or characters) of `source` in random order: no branch is learnt by heart."""
    words = re.findall(r"[!-~]+ *|.", source, re.DOTALL)
    return "".join(rng.choices(words, k=size * len(words) // len(source.encode())))


@cache
def chat(size: int, source: str = ENGLISH, *, ensure_ascii: bool = True, turn_bytes: int = 10_000) -> bytes:
    """The body of a conversation of about `size` bytes."""
    rng = random.Random(1)
    turns = max(2, size // turn_bytes)
    said = [
        {"role": ("user", "assistant")[turn % 2], "content": text(source, size // turns, rng)} for turn in range(turns)
    ]
    return json.dumps({"model": MODEL, "messages": said, "stream": True}, ensure_ascii=ensure_ascii).encode()


@cache
def agent(tokens: int) -> bytes:
    """The body of an agent's conversation of so many tokens: a system prompt, tools, calls and what they returned.

    It has a `cache_salt` of eight digits, which `salted` sets.
    """
    rng = random.Random(tokens)
    said: list[dict[str, Any]] = [{"role": "system", "content": text(ENGLISH, 12_000, rng)}]
    left = tokens * BYTES_PER_TOKEN - 30_000
    while left > 0:
        said += _step(len(said), rng)
        left -= sum(len(json.dumps(message)) for message in said[-3:])
    body = {"model": MODEL, "cache_salt": "00000000", "stream": True, "tools": _tools(rng), "messages": said}
    return json.dumps(body).encode()


def _step(number: int, rng: random.Random) -> list[dict[str, Any]]:
    """A question, a call of a tool, its result: mostly the contents of files."""
    function = {"name": f"tool_{number % 20}", "arguments": json.dumps({"path": f"src/file_{number}.py", "limit": 200})}
    call = {"id": f"call_{number:08}", "type": "function", "function": function}
    return [
        {"role": "user", "content": text(ENGLISH, rng.randrange(100, 800), rng)},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": text(ENGLISH, rng.randrange(500, 8000), rng)},
    ]


def _tools(rng: random.Random) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = [
        {"type": "string", "description": "Where to look"},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "number", "minimum": 0, "maximum": 1.5, "default": None},
    ]
    schema = {"type": "object", "properties": {f"p{i}": kinds[i % 3] for i in range(6)}, "required": ["p0", "p1"]}
    return [
        {
            "type": "function",
            "function": {"name": f"tool_{i}", "description": text(ENGLISH, 300, rng), "parameters": schema},
        }
        for i in range(20)
    ]


def blocks(count: int, seed: int = 0) -> "array[int]":
    """Hashes of so many blocks; others for another seed."""
    return array("Q", random.Random(f"{seed} {count}").randbytes(8 * count))
