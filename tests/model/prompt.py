"""Slow model of `picker._core.prompt`: the body as a tree of texts as they stand, the prompt as one byte string."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import xxhash

from tests.model import hashing, scan

OTHER, CHAT, COMPLETIONS = range(3)
OK, NOT_JSON, TOO_COMPLEX, NOT_OBJECT, NO_MODEL, NO_MESSAGES, NO_PROMPT = range(7)
MEDIA_BYTES = 1024


@dataclass
class Node:
    kind: int  # scan.STRING ...
    text: bytes  # as it stands, a string without its quotes
    items: list["Node"] = field(default_factory=list)
    members: list[tuple["Node", "Node"]] = field(default_factory=list)
    ints: list[int] | None = None

    def get(self, name: str) -> "Node | None":
        """The last member called so; None also if it is null."""
        found = [value for key, value in self.members if json.loads(b'"' + key.text + b'"') == name]
        return found[-1] if found and found[-1].kind != scan.NULL else None


def api(path: bytes) -> int:
    path = path.split(b"?")[0].split(b"#")[0]
    path = path[:-1] if len(path) > 1 and path.endswith(b"/") else path
    if path.endswith(b"/chat/completions"):
        return CHAT
    return COMPLETIONS if path.endswith(b"/completions") else OTHER


def parse(body: bytes) -> Node:
    """Raises ValueError if the body is no JSON."""
    scan.loads(body)
    return _node(body, scan.tape(body), 0)


def _node(body: bytes, tape: list[scan.Value], index: int) -> Node:
    start, end, following, kind, flags = tape[index]
    quote = kind == scan.STRING
    node = Node(kind, body[start + quote : end - quote])
    if flags & scan.INTS and kind == scan.ARRAY:
        node.ints = json.loads(node.text)
        return node
    at = index + 1
    while at < following:
        node.items.append(_node(body, tape, at))
        at = tape[at][2]
    if kind == scan.OBJECT:
        node.members = list(zip(node.items[::2], node.items[1::2], strict=True))
    return node


# --- digests ---


def _join(one: int, other: int) -> int:
    return xxhash.xxh64_intdigest(struct.pack("<QQ", one, other))


def digest(node: Node) -> tuple[int, int]:
    """Hash and size of a value, the members of objects in any order."""
    if node.kind == scan.OBJECT:
        return digest_members(node.members)
    if node.kind != scan.ARRAY:
        return xxhash.xxh64_intdigest(node.text, seed=node.kind), len(node.text)
    if node.ints is not None:
        parts = [(value, 4) for value in node.ints]
    else:
        parts = [digest(item) for item in node.items]
    hashed = scan.ARRAY
    for part, _ in parts:
        hashed = _join(hashed, part)
    return hashed, sum(size for _, size in parts)


def digest_members(members: list[tuple[Node, Node]]) -> tuple[int, int]:
    hashed = size = 0
    for key, value in members:
        if value.kind != scan.NULL:
            (name, name_size), (part, part_size) = digest(key), digest(value)
            hashed = (hashed + _join(name, part)) % 2**64
            size += name_size + part_size
    return _join(scan.OBJECT, hashed), size


def fill(hashed: int, size: int) -> bytes:
    return (struct.pack("<Q", hashed) * (size // 8 + 1))[:size]


# --- what goes into the chain ---


def _part(node: Node) -> bytes:
    if node.kind != scan.OBJECT:
        return b"\x1f" + node.text
    text = node.get("text")
    return b"\x1f" + (text.text if text else fill(digest(node)[0], MEDIA_BYTES))


def _message(node: Node) -> bytes:
    if node.kind != scan.OBJECT:
        return b"\x1e" + node.text
    role, content = node.get("role"), node.get("content")
    others = [(key, value) for key, value in node.members if value is not role and value is not content]
    hashed, size = digest_members(others)
    text = b"\x1e" + (role.text if role else b"") + b"\x1f"
    if content and content.kind == scan.ARRAY and content.ints is None:
        text += b"".join(map(_part, content.items))
    elif content:
        text += content.text
    return text + (b"\x1f" + fill(hashed, size) if size else b"")


def _prompt(node: Node) -> bytes:
    if node.ints is not None:
        return struct.pack(f"<{len(node.ints)}I", *node.ints)
    if node.kind != scan.ARRAY:
        return node.text
    return b"\x1e".join(item.text if item.ints is None else _prompt(item) for item in node.items)


def _filled(node: Node | None) -> bool:
    return node is not None and node.kind == scan.ARRAY and bool(node.items or node.ints)


def _string(node: Node | None) -> bool:
    return node is not None and node.kind == scan.STRING and bool(node.text)


def _max_tokens(body: Node) -> int:
    number = body.get("max_completion_tokens")
    if number is None or number.kind != scan.NUMBER:
        number = body.get("max_tokens")
    value = json.loads(number.text) if number and number.kind == scan.NUMBER else -1
    return int(value) if 0 <= value < 2**31 and value == int(value) else -1


def refused(body: Node, kind: int) -> int:
    if body.kind != scan.OBJECT:
        return NOT_OBJECT
    if not _string(body.get("model")):
        return NO_MODEL
    if kind == CHAT:
        return OK if _filled(body.get("messages")) else NO_MESSAGES
    prompt = body.get("prompt")
    return OK if _string(prompt) or _filled(prompt) else NO_PROMPT


def prompt_text(body: Node, kind: int) -> bytes:
    if kind == COMPLETIONS:
        prompt = body.get("prompt")
        assert prompt
        return _prompt(prompt)
    tools, messages = body.get("tools"), body.get("messages")
    assert messages
    return (tools.text if tools else b"") + b"".join(map(_message, messages.items))


def read(path: bytes, body: bytes, seed: int = 0, blocks: int = 65536) -> dict[str, Any]:
    kind = api(path)
    if kind == OTHER:
        return {"api": kind, "refused": OK}
    try:
        tree = parse(body)
    except ValueError:
        return {"api": kind, "refused": NOT_JSON}
    problem = refused(tree, kind)
    if problem != OK:
        return {"api": kind, "refused": problem}
    model, salt, stream = tree.get("model"), tree.get("cache_salt"), tree.get("stream")
    assert model
    name = json.loads(b'"' + model.text + b'"').encode("utf-8", "surrogatepass")
    root = xxhash.xxh64_intdigest(name, seed=seed)
    root = xxhash.xxh64_intdigest(salt.text, seed=root) if salt else root
    text = prompt_text(tree, kind)
    return {
        "api": kind,
        "refused": OK,
        "model": name,
        "stream": stream is not None and stream.kind == scan.TRUE,
        "max_tokens": _max_tokens(tree),
        "tokens": min(-(-len(text) // 4), blocks * 64),
        "hashes": hashing.block_hashes([text], root, blocks),
    }
