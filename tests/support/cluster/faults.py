"""What goes wrong between an API server and its client, on demand or at random.

Faults of a request: `refuse`, `drop`, `wrong_json`, `cut_body`, `slow`. Of a watch that is open: `cut_watches`,
`end_watches`, `expire_watches`, `silence`, `bookmark`. Of a watch when it sends its n-th event from now: `at_event`.
`match` is how the path of the request begins ("" is any). All may be called from any thread.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.cluster.refusals import Refusal

REQUEST_FAULTS = ("refuse", "drop", "wrong_json", "cut_body")
EVENT_FAULTS = ("cut", "cut_line", "wrong_json", "expire", "silence", "same_bookmark", "old_bookmark", "end")
RANDOM_STATUSES = (403, 404, 410, 429, 500, 502, 503, 504)
ALWAYS = 1 << 62


@dataclass
class Fault:
    """`left`: how often it still happens; `after`: how many others pass before."""

    what: str
    match: str = ""
    left: int = 1
    after: int = 0
    status: int = 500
    retry_after_s: int = 0
    method: str = ""

    def refusal(self) -> Refusal:
        message = "too old resource version: 1 (2)" if self.status == 410 else f"injected {self.status}"
        return Refusal(self.status, message, retry_after_s=self.retry_after_s)


class Faults:
    """`tell(match, command)` reaches the open watches and says how many there were."""

    def __init__(self, tell: Callable[[str, str], int], compact: Callable[[], None]) -> None:
        self._tell = tell
        self._compact = compact
        self._lock = threading.Lock()
        self._requests: list[Fault] = []
        self._events: list[Fault] = []
        self._random = random.Random()
        self._rate = 0.0
        self._most = 0
        self._match = ""
        self._request_kinds: tuple[str, ...] = REQUEST_FAULTS
        self._event_kinds: tuple[str, ...] = EVENT_FAULTS
        self.bytes_per_s = 0.0
        self.injected: Counter[str] = Counter()
        """How often each has happened."""

    # --- of requests ---

    def refuse(
        self, status: int, times: int = 1, *, match: str = "", method: str = "", retry_after_s: int = 0, after: int = 0
    ) -> None:
        """The next `times` matching requests are answered so (watches too: HTTP 410 for one that begins)."""
        fault = Fault("refuse", match, times, after, status=status, retry_after_s=retry_after_s, method=method)
        self._requests.append(fault)

    def drop(self, times: int = 1, *, match: str = "") -> None:
        """Connections are closed without an answer."""
        self._requests.append(Fault("drop", match, times))

    def wrong_json(self, times: int = 1, *, match: str = "") -> None:
        """What is answered is no JSON; in a watch, its next event."""
        self._requests.append(Fault("wrong_json", match, times))

    def cut_body(self, times: int = 1, *, match: str = "") -> None:
        """The connection ends in the middle of the answer."""
        self._requests.append(Fault("cut_body", match, times))

    def slow(self, bytes_per_s: float) -> None:
        """All answers and events from now on; 0 is as fast as can be."""
        self.bytes_per_s = bytes_per_s

    # --- of open watches, now ---

    def cut_watches(self, match: str = "") -> int:
        """Their connections break. How many there were, as of all of these."""
        return self._now("cut", match)

    def end_watches(self, match: str = "") -> int:
        """They end as after their timeout."""
        return self._now("end", match)

    def expire_watches(self, match: str = "") -> int:
        """They get an ERROR event, 410."""
        return self._now("expire", match)

    def silence(self, match: str = "") -> int:
        """Their connections stay, and nothing comes any more. New ones speak."""
        return self._now("silence", match)

    def bookmark(self, match: str = "", *, old: bool = False) -> int:
        """A bookmark, if they asked for them: of now, or of a version they are beyond."""
        return self._now("old_bookmark" if old else "same_bookmark", match)

    def _now(self, what: str, match: str) -> int:
        found = self._tell(match, what)
        self.injected[what] += found
        return found

    def compact(self) -> None:
        """All versions there are become too old: for watches that begin there, pages that go on there."""
        self._compact()
        self.injected["compact"] += 1

    expire = compact

    # --- of watches, at an event ---

    def at_event(self, what: str, *, after: int = 0, times: int = 1, match: str = "") -> None:
        """One of `EVENT_FAULTS`, instead of (or, for bookmarks, before) the event that comes after `after` others."""
        assert what in EVENT_FAULTS, what
        self._events.append(Fault(what, match, times, after))

    def cut_after(self, events: int, *, in_line: bool = False, times: int = 1, match: str = "") -> None:
        """A watch breaks after that many events, between two of them or in the middle of the next."""
        self.at_event("cut_line" if in_line else "cut", after=events, times=times, match=match)

    # --- at random ---

    def random(
        self,
        seed: int,
        rate: float,
        *,
        most: int = ALWAYS,
        match: str = "",
        requests: tuple[str, ...] = REQUEST_FAULTS,
        events: tuple[str, ...] = EVENT_FAULTS,
    ) -> None:
        """That share of requests and of events goes wrong, `most` in all; which and how comes of the seed alone."""
        self._random.seed(seed)
        self._rate, self._most, self._match = rate, most, match
        self._request_kinds, self._event_kinds = requests, events

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._requests.clear()
        self._events.clear()
        self._rate, self.bytes_per_s = 0.0, 0.0

    # --- asked by the server ---

    def of_request(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return self._take(self._requests, method, path) or self._chance(self._request_kinds, path)

    def of_event(self, path: str) -> str:
        with self._lock:
            found = self._take(self._events, "", path) or self._chance(self._event_kinds, path)
            return found.what if found else ""

    def _take(self, faults: list[Fault], method: str, path: str) -> Fault | None:
        for fault in faults:
            if not path.startswith(fault.match) or (fault.method and fault.method != method):
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.left -= 1
            if not fault.left:
                faults.remove(fault)
            self.injected[fault.what] += 1
            return fault
        return None

    def _chance(self, kinds: tuple[str, ...], path: str) -> Fault | None:
        if not self._rate or not kinds or not path.startswith(self._match) or self._random.random() >= self._rate:
            return None
        if self._most <= 0:
            return None
        self._most -= 1
        fault = Fault(self._random.choice(kinds), status=self._random.choice(RANDOM_STATUSES))
        self.injected[fault.what] += 1
        return fault
