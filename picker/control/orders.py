"""The data plane's side: does what the control process says, a little at a time."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from picker._core.rewrite import Rewrites
from picker.control.messages import (
    Change,
    Close,
    FromControl,
    Leading,
    Naming,
    Observed,
    Open,
    Prioritising,
    Rewriting,
    Synced,
)
from picker.errors import PickerError
from picker.pools import Pools, ServedPool
from picker.standing import Standing

__all__ = ["Orders"]

_LOG = logging.getLogger("picker")


class Orders:
    """Obeys on behalf of the pools.

    `name_models`: the body-based router's `set_base_models`. `turn` is called behind each order: requests may have
    waited for what it changed.
    """

    def __init__(
        self,
        pools: Pools,
        standing: Standing,
        *,
        name_models: Callable[[Mapping[str, str]], None] | None = None,
        turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.refused = 0
        """Pools that could not be opened."""
        self.failed = 0
        """Orders that could not be carried out, by a fault of ours."""
        self._pools = pools
        self._standing = standing
        self._name_models = name_models
        self._turn = turn
        self._rewrites: dict[str, Rewrites] = {}
        self._objectives: dict[str, dict[str, int]] = {}
        self._models: dict[str, str] = {}
        self._does: dict[type[Any], Callable[[Any], None]] = {
            Open: self._open,
            Close: self._close,
            Change: self._change,
            Observed: self._observe,
            Rewriting: self._rewrite,
            Prioritising: self._prioritise,
            Naming: self._name,
            Synced: lambda order: self._standing.set_synced(order.is_synced),
            Leading: lambda order: self._standing.lead(order.until_ns),
        }

    def take(self, order: FromControl) -> None:
        """Does what it says."""
        try:
            self._does[type(order)](order)
        except Exception:  # ending the link for it would bring the same order again, for ever
            self.failed += 1
            _LOG.exception("an order of the control process could not be carried out: %s", type(order).__name__)
        self._turn()

    def _pool(self, name: str) -> ServedPool | None:
        """None for one that was closed meanwhile."""
        return self._pools.get(name)

    def _open(self, order: Open) -> None:
        try:
            self._pools.open(order.pool, order.authorities)
        except (OverflowError, ValueError, PickerError) as problem:
            self.refused += 1
            _LOG.error("pool %s is not served: %s", order.pool, problem)

    def _close(self, order: Close) -> None:
        if order.pool in self._pools:
            self._pools.close(order.pool)
        self._rewrites.pop(order.pool, None)
        self._objectives.pop(order.pool, None)

    def _change(self, order: Change) -> None:
        if (served := self._pool(order.pool)) is not None:
            served.pool.change(gone=order.gone, come=order.come)

    def _observe(self, order: Observed) -> None:
        if (served := self._pool(order.pool)) is not None:
            for key, load in order.loads:
                served.pool.observe(key, load)

    def _rewrite(self, piece: Rewriting) -> None:
        if piece.is_first:  # what came of others before has no end
            self._rewrites[piece.pool] = Rewrites()
        rules = self._rewrites[piece.pool]
        rules.extend(piece.rules)
        if piece.is_last and (served := self._pool(piece.pool)) is not None:
            served.engine.set_rewrites(rules)

    def _prioritise(self, piece: Prioritising) -> None:
        if piece.is_first:
            self._objectives[piece.pool] = {}
        objectives = self._objectives[piece.pool]
        objectives.update(piece.objectives)
        if piece.is_last and (served := self._pool(piece.pool)) is not None:
            served.engine.set_objectives(objectives)

    def _name(self, piece: Naming) -> None:
        if piece.is_first:
            self._models = {}
        self._models.update(piece.models)
        if piece.is_last and self._name_models is not None:
            self._name_models(self._models)
