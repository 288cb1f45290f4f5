import json
import random
from typing import Any

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import CHINESE, ENGLISH, agent, chat
from picker._core.scan import Scanner, splice

BODY_BYTES = 400_000


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


def scanning(body: bytes) -> Action:
    scanner = Scanner()
    return lambda: scanner.scan(body)


def splicing() -> Action:
    body = chat(BODY_BYTES)
    return lambda: splice(body, b"model", "llama")


BODIES = [
    ("400 KB chat body, English", lambda: chat(BODY_BYTES, ensure_ascii=False), 1.0),
    ("400 KB chat body, Chinese", lambda: chat(BODY_BYTES, CHINESE, ensure_ascii=False), 1.0),
    ("800 KB chat body, Chinese as \\u escapes", lambda: chat(BODY_BYTES, CHINESE), 1.0),
    ("an agent's 240,000 tokens", lambda: agent(240_000), 1.0),
    ("100,000 token ids", token_ids, 1.0),
    ("tool schemas", tools, 0.3),
]
CASES = [
    *(
        Case(f"scan: {what}", lambda make=make: scanning(make()), "GB/s", limit, per=len(make()))  # type: ignore[misc]
        for what, make, limit in BODIES
    ),
    Case("scan: another model's name in 400 KB", splicing, "us"),
]
GROWTHS = [Growth("scan: a chat body of n bytes", lambda n: scanning(chat(n, ENGLISH)), 1 << 15, "n")]
