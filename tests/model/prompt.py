"""Slow model of `picker._core.prompt`: the body as a tree of texts as they stand, the prompt as one byte string."""

import dataclasses
import json
import struct
from typing import Any

import xxhash

from tests.model import apis, hashing, scan

MEDIA_BYTES = 1024


@dataclasses.dataclass
class Node:
    kind: int  # scan.STRING ...
    text: bytes  # as it stands, a string without its quotes
    items: list["Node"] = dataclasses.field(default_factory=list)
    members: list[tuple["Node", "Node"]] = dataclasses.field(default_factory=list)
    ints: list[int] | None = None

    def last(self, name: str) -> "Node | None":
        """The last member called so."""
        found = [value for key, value in self.members if json.loads(b'"' + key.text + b'"') == name]
        return found[-1] if found else None

    def get(self, name: str) -> "Node | None":
        """The last member called so; None also if it is null."""
        found = self.last(name)
        return found if found and found.kind != scan.NULL else None

    @property
    def is_list(self) -> bool:
        """An array with items on the tape."""
        return self.kind == scan.ARRAY and self.ints is None


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
    text = node.get("text") or node.get("thinking")
    if text:
        return b"\x1f" + text.text
    content = node.get("content")
    apart = [node.last(name) for name in ("content", "cache_control")]
    others = [(key, value) for key, value in node.members if not any(value is each for each in apart)]
    hashed, size = digest_members(others)
    size = size if content or node.get("input") else MEDIA_BYTES
    return b"\x1f" + fill(hashed, size) + (_content(content) if content else b"")


def _content(node: Node) -> bytes:
    return b"".join(map(_part, node.items)) if node.is_list else node.text


def _message(node: Node) -> bytes:
    if node.kind != scan.OBJECT:
        return b"\x1e" + node.text
    role, content = node.get("role"), node.get("content")
    others = [(key, value) for key, value in node.members if value is not role and value is not content]
    hashed, size = digest_members(others)
    text = b"\x1e" + (role.text if role else b"") + b"\x1f" + (_content(content) if content else b"")
    return text + (b"\x1f" + fill(hashed, size) if size else b"")


def _messages(node: Node) -> bytes:
    if node.kind == scan.STRING:
        return said("user", node)
    return b"".join(map(_message, node.items)) if node.is_list else _message(node)


def said(who: str, node: Node) -> bytes:
    return b"\x1e" + who.encode() + b"\x1f" + _content(node)


def ids(numbers: list[int], places: list[tuple[int, int]]) -> bytes:
    """Token ids, and before them the media that stand there: (offset, hash) in order."""
    text = b""
    for offset, number in enumerate(numbers):
        while places and places[0][0] <= offset:
            text += struct.pack("<Q", places.pop(0)[1])
        text += struct.pack("<I", number)
    return text


def _prompt(node: Node, places: list[tuple[int, int]]) -> bytes:
    if node.ints is not None:
        return ids(node.ints, places)
    if node.kind == scan.ARRAY:
        return b"\x1e".join(item.text if item.is_list else _prompt(item, places) for item in node.items)
    return _part(node) if node.kind == scan.OBJECT else node.text


def _media(node: Node) -> bytes:
    if node.is_list:
        return b"".join(b"\x1f" + _medium(item) for item in node.items)
    return b"\x1f" + _medium(node)


def _medium(node: Node) -> bytes:
    hashed, size = digest(node)
    return fill(hashed, size if node.kind == scan.ARRAY else MEDIA_BYTES)


def _places(node: Node) -> list[tuple[int, int]]:
    """Of at most 64 media of at most 8 kinds (more are folded into one: not modelled)."""
    hashes, ranges = node.last("mm_hashes"), node.last("mm_placeholders")
    found = []
    for kind, of_kind in (hashes.members if hashes else [])[:8]:
        at = ranges.last(kind.text.decode("utf-8", "surrogatepass")) if ranges else None
        spans = at.items if at and at.is_list else []
        offset = 0
        for number, item in enumerate(of_kind.items):
            if number < len(spans):
                offset = _uint(spans[number].last("offset"))
            found.append((offset, xxhash.xxh64_intdigest(item.text)))
    return sorted(found, key=lambda place: place[0])


# --- what is read ---


def _uint(node: Node | None) -> int:
    value = json.loads(node.text) if node and node.kind == scan.NUMBER else 0
    return int(value) if 0 <= value < 2**64 and value == int(value) else 0


def _filled(node: Node | None) -> bool:
    return node is not None and node.kind == scan.ARRAY and bool(node.items or node.ints)


def _string(node: Node | None) -> bool:
    return node is not None and node.kind == scan.STRING and bool(node.text)


def _fits(node: Node | None, need: str) -> bool:
    if need == "value":
        return node is not None
    return (need != "string" and _filled(node)) or (need != "array" and _string(node))


def _limit(node: Node | None, inner: str) -> int | None:
    """None if there is no number."""
    number = node.last(inner) if node and inner else node
    if number is None or number.kind != scan.NUMBER:
        return None
    value = json.loads(number.text)
    return int(value) if 0 <= value < 2**31 and value == int(value) else -1


def lacking(body: Node, fields: list[dict[str, Any]]) -> str:
    """The field that a body lacks; "" if it lacks none."""
    for group in sorted({field["group"] for field in fields if field["need"]}):
        of_group = [field for field in fields if field["need"] and field["group"] == group]
        if not any(_fits(body.get(field["name"]), field["need"]) for field in of_group):
            return str(of_group[-1]["name"])
    return ""


def prompt_text(body: Node, fields: list[dict[str, Any]]) -> bytes:
    text = b""
    places: list[tuple[int, int]] = []
    for field in fields:
        node = body.get(field["name"])
        if node is None:
            continue
        if field["role"] == "messages":
            text += _messages(node)
        elif field["role"] == "tools":
            text += node.text
        elif field["role"] == "system":
            text += said(field["name"], node)
        elif field["role"] == "prompt":
            text += (b"\x1e" if text else b"") + _prompt(node, places)
        elif field["role"] == "media":
            text += _media(node)
        elif field["role"] == "places":
            places += _places(node)
    return text + b"".join(struct.pack("<Q", hashed) for _, hashed in places)


def _root(body: Node, fields: list[dict[str, Any]], root: int) -> int:
    for each in fields:
        salt = body.get(each["name"])
        if each["role"] == "salt" and salt:
            root = xxhash.xxh64_intdigest(salt.text, seed=xxhash.xxh64_intdigest(each["name"].encode(), seed=root))
    return root


def read(path: bytes, body: bytes, seed: int = 0, blocks: int = 65536) -> dict[str, Any]:
    kind = apis.find(path)
    row = apis.TABLE[kind]
    found = {"api": kind, "refused": apis.OK, "field": ""}
    if kind == apis.OTHER or row["format"] == "grpc":
        return found
    try:
        tree = parse(body)
    except ValueError:
        return {**found, "refused": apis.NOT_JSON}
    if tree.kind != scan.OBJECT:
        return {**found, "refused": apis.NOT_OBJECT}
    lacks = lacking(tree, row["fields"])
    if lacks:
        return {**found, "refused": apis.LACKS, "field": lacks}
    return {**found, **_read(tree, row, seed, blocks)}


def _read(tree: Node, row: dict[str, Any], seed: int, blocks: int) -> dict[str, Any]:
    fields = row["fields"]
    has_model = any(field["role"] == "model" for field in fields)
    model = tree.get("model") if has_model and _string(tree.get("model")) else None
    name = json.loads(b'"' + model.text + b'"').encode("utf-8", "surrogatepass") if model else b""
    root = _root(tree, fields, xxhash.xxh64_intdigest(name, seed=seed) if model else seed)
    stream = tree.get("stream")
    limits = [_limit(tree.get(each["name"]), each["inner"]) for each in fields if each["role"] == "limit"]
    text = prompt_text(tree, fields) if row["work"] else b""
    return {
        "model": name,
        "stream": any(each["role"] == "stream" for each in fields) and stream is not None and stream.kind == scan.TRUE,
        "max_tokens": 0 if row["work"] != "answer" else next((limit for limit in limits if limit is not None), -1),
        "tokens": min(-(-len(text) // 4), blocks * 64),
        "hashes": hashing.block_hashes([text], root, blocks),
    }
