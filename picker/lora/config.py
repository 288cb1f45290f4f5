"""The side-car's file: which adapters a model server must have, and which it must not.

The format is that of `tools/dynamic-lora-sidecar` of the Gateway API Inference Extension, so members keep its names.
"""

from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from picker.config.decode import Decoder
from picker.config.document import Document, compose, decode_text
from picker.config.following import FollowedFile
from picker.config.suggest import one_of, quoted
from picker.errors import LoraConfigError

__all__ = ["NO_ADAPTERS", "Adapter", "LoraConfig", "LoraFile", "parse_config"]

BASE = "vLLMLoRAConfig"

_Id = Annotated[str, Meta(min_length=1, max_length=512)]


class Wanted(Struct, frozen=True, kw_only=True):
    """An adapter that must be there. `source`: a path or a name of a repository, as the model server takes it."""

    id: _Id
    source: Annotated[str, Meta(min_length=1)]
    base_model: str = field(default="", name="base-model")


class Unwanted(Struct, frozen=True, kw_only=True):
    """An adapter that must not be there; what else is said of it has no effect."""

    id: _Id
    source: str = ""
    base_model: str = field(default="", name="base-model")


class WantedList(Struct, frozen=True, kw_only=True):
    """Those that must be there."""

    models: tuple[Wanted, ...]


class UnwantedList(Struct, frozen=True, kw_only=True):
    """Those that must not."""

    models: tuple[Unwanted, ...]


class Spec(Struct, frozen=True, kw_only=True):
    """What stands under `vLLMLoRAConfig`."""

    name: str = ""
    host: Annotated[str, Meta(min_length=1)] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    defaultBaseModel: str = ""
    ensureExist: WantedList | None = None
    ensureNotExist: UnwantedList | None = None


class Adapter(Struct, frozen=True, kw_only=True):
    """An adapter to load."""

    id: str
    source: str
    base_model: str


class LoraConfig(Struct, frozen=True, kw_only=True):
    """The file's meaning. Adapters of both lists are in `disputed` alone, and let be."""

    address: str = "localhost:8000"
    """Of the model server, `host:port`."""
    wanted: tuple[Adapter, ...] = ()
    unwanted: tuple[str, ...] = ()
    disputed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.wanted) + len(self.unwanted)


NO_ADAPTERS = LoraConfig()


def parse_config(data: bytes, *, source: str) -> Generator[None, None, LoraConfig]:
    """What `data` means, in slices. Raises LoraConfigError, which names line and member."""
    text = decode_text(data, source=source, error=LoraConfigError)
    document = yield from compose(text, source=source, error=LoraConfigError)
    decoder = Decoder(document, source=source, error=LoraConfigError)
    root = document.value
    if not isinstance(root, dict) or BASE not in root:
        hint = "write the adapters under it; see docs/rollouts.md"
        raise decoder.failure(f"{BASE} is missing", (), hint=hint)
    spec = decoder.convert((BASE,), root[BASE], Spec)
    return _meant(spec, tuple(_unknown(document, decoder)))


def _meant(spec: Spec, warnings: tuple[str, ...]) -> LoraConfig:
    wanted = {each.id: each for each in reversed(spec.ensureExist.models if spec.ensureExist else ())}
    unwanted = {each.id: each for each in spec.ensureNotExist.models} if spec.ensureNotExist else {}
    host = f"[{spec.host}]" if ":" in spec.host and not spec.host.startswith("[") else spec.host
    return LoraConfig(
        address=f"{host}:{spec.port}",
        wanted=tuple(
            Adapter(id=each.id, source=each.source, base_model=each.base_model or spec.defaultBaseModel)
            for each in reversed(wanted.values())
            if each.id not in unwanted
        ),
        unwanted=tuple(name for name in unwanted if name not in wanted),
        disputed=tuple(name for name in unwanted if name in wanted),
        warnings=warnings,
    )


_LIST, _MODEL = ("models",), ("id", "source", "base-model")
_SPEC = ("name", "host", "port", "defaultBaseModel", "ensureExist", "ensureNotExist")


def _unknown(document: Document, decoder: Decoder) -> Iterator[str]:
    """Members that have no effect. The format's own schema takes them, so they are no error."""
    spec = document.value[BASE]
    yield from _strangers(spec, _SPEC, (BASE,), decoder)
    for name in ("ensureExist", "ensureNotExist"):
        section = spec.get(name) or {}
        yield from _strangers(section, _LIST, (BASE, name), decoder)
        for index, model in enumerate(section.get("models") or ()):
            yield from _strangers(model, _MODEL, (BASE, name, "models", index), decoder)


def _strangers(
    value: dict[str, Any], known: tuple[str, ...], path: tuple[str | int, ...], decoder: Decoder
) -> Iterator[str]:
    for name in value:
        if name not in known:
            yield f"{decoder.where((*path, name))}: unknown member {quoted(name)} has no effect; {one_of(name, known)}"


class LoraFile(FollowedFile[LoraConfig]):
    """The file, kept current."""

    holds = "adapters"
    error = LoraConfigError

    def __init__(
        self,
        path: Path | str,
        *,
        on_change: Callable[[LoraConfig], None] = lambda _: None,
        interval_s: float = 0.5,
        tick: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(path, NO_ADAPTERS, on_change=on_change, interval_s=interval_s, tick=tick)

    def parse(self, data: bytes) -> Generator[None, None, LoraConfig]:
        """The adapters in `data`."""
        return parse_config(data, source=str(self.path))
