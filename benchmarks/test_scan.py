import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from picker._core.scan import Scanner

BODY_BYTES = 400_000
MESSAGES = 40
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


def text(source: str, size: int, rng: random.Random) -> str:
    """About `size` bytes of the words (or characters) of `source` in random order: no branch is learnt by heart."""
    words = re.findall(r"[!-~]+ *|.", source, re.DOTALL)
    return "".join(rng.choices(words, k=size * len(words) // len(source.encode())))


def chat(source: str, *, ensure_ascii: bool = False) -> bytes:
    rng = random.Random(1)
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": text(source, BODY_BYTES // MESSAGES, rng)}
        for turn in range(MESSAGES)
    ]
    body = {"model": "llama-3.1-8b", "messages": messages, "stream": True, "max_tokens": 512, "temperature": 0.7}
    return json.dumps(body, ensure_ascii=ensure_ascii).encode()


def token_ids() -> bytes:
    rng = random.Random(1)
    return json.dumps({"model": "llama-3.1-8b", "prompt": [rng.randrange(128_000) for _ in range(100_000)]}).encode()


def tools() -> bytes:
    """What tool schemas look like: short names, short strings, deep nesting."""
    kinds: list[dict[str, Any]] = [
        {"type": "string", "description": "Where to look"},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "number", "minimum": 0, "maximum": 1.5, "default": None},
    ]
    schema = {"type": "object", "properties": {f"p{i}": kinds[i % 3] for i in range(10)}, "required": ["p0", "p1"]}
    tool = {"type": "function", "function": {"name": "search", "strict": True, "parameters": schema}}
    return json.dumps({"model": "llama-3.1-8b", "tools": [tool] * 500}).encode()


CASES: list[tuple[str, Callable[[], bytes], float]] = [
    ("400 KB chat body, English", lambda: chat(ENGLISH), 1.0),
    ("400 KB chat body, Chinese", lambda: chat(CHINESE), 1.0),
    ("800 KB chat body, Chinese as \\u escapes", lambda: chat(CHINESE, ensure_ascii=True), 1.0),
    ("100,000 token ids", token_ids, 1.0),
    ("tool schemas", tools, 0.3),
]


@pytest.mark.parametrize(("what", "make", "limit"), CASES, ids=[case[0] for case in CASES])
def test_scan_throughput(
    seconds: Callable[[Callable[[], object]], float],
    target: Callable[..., None],
    what: str,
    make: Callable[[], bytes],
    limit: float,
) -> None:
    body = make()
    scanner = Scanner()
    took = seconds(lambda: scanner.scan(body))
    target(f"scan: {what}", len(body) / took / 1e9, limit, "GB/s", higher_is_better=True)
