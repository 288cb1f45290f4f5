"""The OpenAI side of the simulated server: requests decoded and priced in tokens, replies encoded.

There is no tokenizer: four bytes of UTF-8 are a token, so prompts cost `ceil(bytes / 4)` and each generated token is
four ASCII bytes. A conversation is rendered as one text that only grows from turn to turn, answers included, so that
the next turn finds all of it in the prefix cache.
"""

import json
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from picker._core import hashing

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS = 16
WORDS = [
    word + " " for word in "all are but can did few for had her him his how its may new not now off one our".split()
]
Usage = dict[str, Any]
Prompt = str | list[int | str | list[int]]  # as OpenAI has it: text, token ids, or a list of either


class BadRequest(Exception):
    """What the client sent cannot be served; the text says why (HTTP 400)."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Common(msgspec.Struct, kw_only=True):
    """Members of both requests that matter here; all others are accepted and ignored, as vLLM does."""

    model: str = ""
    max_tokens: int | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: int | None = 1
    simulated_output_tokens: int | None = None  # of this server alone: where the answer ends before max_tokens
    cache_salt: str | None = None


class CompletionBody(_Common, kw_only=True):
    prompt: Prompt


class ChatBody(_Common, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None


@dataclass(frozen=True)
class Ask:
    """One decoded request. `prompt` is the rendered text, or token ids at four bytes each."""

    chat: bool
    model: str
    prompt: bytes
    output_tokens: int
    is_cut: bool  # ends at max_tokens
    stream: bool
    include_usage: bool
    cache_salt: str

    @property
    def prompt_tokens(self) -> int:
        return -(-len(self.prompt) // BYTES_PER_TOKEN)


def decode(body: bytes, *, chat: bool) -> Ask:
    """Decodes the body of `/v1/chat/completions` or `/v1/completions`. Raises BadRequest."""
    try:
        kind: type[ChatBody | CompletionBody] = ChatBody if chat else CompletionBody
        request = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not a valid request: {error}") from None
    if isinstance(request, ChatBody):
        newer, older = request.max_completion_tokens, request.max_tokens
        prompt, limit = _render_chat(request), older if newer is None else newer
    else:
        prompt, limit = _render_prompt(request.prompt), request.max_tokens
    most = DEFAULT_OUTPUT_TOKENS if limit is None else limit
    output_tokens = min(most, request.simulated_output_tokens or most)
    if output_tokens < 1:
        raise BadRequest("max_tokens must be at least 1")
    if not prompt:
        raise BadRequest("the prompt is empty")
    if request.n not in (None, 1):
        raise BadRequest("this server generates one choice per request: n must be 1")
    options = request.stream_options or _StreamOptions()
    return Ask(
        chat=chat,
        model=request.model,
        prompt=prompt,
        output_tokens=output_tokens,
        is_cut=output_tokens == most,
        stream=bool(request.stream),
        include_usage=options.include_usage,
        cache_salt=request.cache_salt or "",
    )


def _render_chat(request: ChatBody) -> bytes:
    if not request.messages:
        raise BadRequest("messages must not be empty")
    parts = [f"<|tools|>\n{json.dumps(request.tools)}\n"] if request.tools else []
    for message in request.messages:
        parts.append(f"<|{message.get('role', 'user')}|>\n{_render_content(message.get('content'))}")
        if message.get("tool_calls"):
            parts.append(json.dumps(message["tool_calls"]))
        parts.append("\n")
    parts.append("<|assistant|>\n")
    return "".join(parts).encode()


def _render_content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest("content must be a string or a list of parts")
    return "".join(
        part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else json.dumps(part)
        for part in content
    )


def _render_prompt(prompt: Prompt) -> bytes:
    if isinstance(prompt, str):
        return prompt.encode()
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0].encode()
    if len(prompt) == 1 and isinstance(prompt[0], list):
        return _render_prompt([*prompt[0]])
    tokens = [token for token in prompt if isinstance(token, int) and 0 <= token < 2**32]
    if len(tokens) < len(prompt):
        raise BadRequest("prompt must be one string or one list of token ids")
    return array("I", tokens).tobytes()


def generate(ask: Ask) -> list[str]:
    """The answer, token by token: four ASCII bytes each, the same for the same prompt."""
    start = hashing.xxh64(ask.prompt[-64:])
    return [WORDS[(start + 7 * index) % len(WORDS)] for index in range(ask.output_tokens)]


def block_keys(ask: Ask, answer: Sequence[str], *, block_size: int, adapter: str) -> list[int]:
    """Chained hashes of the full blocks of prompt and answer. Adapter and salt keep caches apart, as in vLLM."""
    text = memoryview(ask.prompt + "".join(answer).encode())
    size = block_size * BYTES_PER_TOKEN
    key = hashing.xxh64(f"{adapter}\0{ask.cache_salt}".encode())
    keys = []
    for start in range(0, len(text) - size + 1, size):
        key = hashing.xxh64(text[start : start + size], key)
        keys.append(key)
    return keys


def usage(ask: Ask, cached_tokens: int) -> Usage:
    return {
        "prompt_tokens": ask.prompt_tokens,
        "total_tokens": ask.prompt_tokens + ask.output_tokens,
        "completion_tokens": ask.output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """vLLM's error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Replies:
    """Encodes the replies to one request."""

    def __init__(self, ask: Ask, reply_id: str, model: str) -> None:
        self.ask = ask
        self.head = {"id": reply_id, "object": "", "created": int(time.time()), "model": model}

    def _frame(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.ask.chat else "text_completion"
        return b"data: " + msgspec.json.encode({**self.head, "object": kind, "choices": choices, **more}) + b"\n\n"

    def _reason(self) -> str:
        return "length" if self.ask.is_cut else "stop"

    def chunk(self, text: str, *, first: bool, last: bool) -> bytes:
        """The server-sent event of one token or more."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._reason() if last else None}
        if self.ask.chat:
            choice["delta"] = {"role": "assistant", "content": text} if first else {"content": text}
        else:
            choice["text"] = text
        return self._frame([choice])

    def closing(self, cached_tokens: int) -> bytes:
        """What follows the last token: usage if it was asked for, and the end mark."""
        counted = self._frame([], usage=usage(self.ask, cached_tokens)) if self.ask.include_usage else b""
        return counted + b"data: [DONE]\n\n"

    def whole(self, text: str, cached_tokens: int) -> bytes:
        """The unary reply."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._reason()}
        if self.ask.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.ask.chat else "text_completion"
        reply = {**self.head, "object": kind, "choices": [choice], "usage": usage(self.ask, cached_tokens)}
        return msgspec.json.encode(reply)
