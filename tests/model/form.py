"""Slow model of `picker._core.form`: a form taken apart at its delimiters."""

import re
import struct
from typing import Any

import xxhash

from tests.model import hashing

HEAD_BYTES, FILE_BYTES, MEDIA_BYTES, MOST_FILES = 8192, 65536, 1024, 64
PARAMETER = re.compile(rb';[ \t]*(name|filename\*?)=(?:"((?:\\.|[^"])*)"?|([^; \t]*))', re.DOTALL | re.IGNORECASE)


def parts(body: bytes, boundary: bytes) -> list[bytes] | None:
    """Head and content of each part; None for what is no form."""
    delimiter = re.compile(rb"(?:^|(?<=\r\n))--" + re.escape(boundary) + rb"(--|[ \t]*\r\n)")
    found, at = [], None
    while match := delimiter.search(body, 0 if at is None else at):
        if at is not None:
            found.append(body[at : max(at, match.start() - 2)])
        if match[1] == b"--":
            return found
        at = match.end()
    return None


def read(body: bytes, boundary: bytes, seed: int = 0, blocks: int = 1024) -> dict[str, Any] | None:
    fields: dict[bytes, bytes] = {}
    files: list[bytes] = []
    for part in parts(body, boundary) or ():
        head, blank, content = (b"\r\n" + part).partition(b"\r\n\r\n")
        if not blank or len(head) + 2 > HEAD_BYTES:
            return None
        named, is_file = disposition(head)
        if is_file:
            files.append(content)
        else:
            fields[named] = content
    if parts(body, boundary) is None:
        return None
    text = fields.get(b"prompt", b"") + media(files)
    return {
        "model": fields.get(b"model", b""),
        "prompt": fields.get(b"prompt", b""),
        "files": len(files),
        "tokens": min(-(-len(text) // 4), blocks * 64),
        "hashes": hashing.block_hashes([text], seed, blocks),
    }


def disposition(head: bytes) -> tuple[bytes, bool]:
    name, is_file = b"", False
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-disposition:"):
            for key, quoted, plain in PARAMETER.findall(line[20:]):
                if key.lower() == b"name":
                    name = quoted or plain
                else:
                    is_file = True
    return name, is_file


def media(files: list[bytes]) -> bytes:
    digest = 0
    for content in files:
        digest = xxhash.xxh64_intdigest(content[:FILE_BYTES], seed=(digest + len(content)) % 2**64)
    count = min(len(files), MOST_FILES)
    return b"\x1e\x1f" + struct.pack("<Q", digest) * (MEDIA_BYTES // 8 * count) if files else b""
