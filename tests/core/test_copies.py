"""What another process reads of an engine is what the engine shows itself."""

import pytest

from picker._core import copies
from picker._core.engine import Engine
from tests.support.config_samples import HEAD
from tests.support.leaks import assert_flat
from tests.support.rig import SECOND, Rig, chat, endpoint, target


@pytest.fixture
def rig() -> Rig:
    """Four endpoints in slots 0 to 4, of which slot 1 is free; some models, one request under way."""
    made = Rig(HEAD, [endpoint(number) for number in range(1, 6)])
    made.load(3, waiting=3, running=2, kv_usage=0.5)
    for number in range(5):
        made.pick(chat("p" * 1000, model=f"model-{number}"))
        made.now_ns += SECOND
    made.pick(b'{"model": "m", "messages": []}')
    made.pool.change(gone=[target(2)])
    made.send(chat(model="é" * 200))
    return made


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_figures_by_model_are_those_of_the_engine(rig: Rig, most: int) -> None:
    rows = []
    for first in range(0, 1000, most):
        if (piece := copies.copy_series(rig.engine, first, most)) is None:
            break
        rows += copies.read_series(piece)
    assert rows == rig.engine.stats()["series"]
    assert len(rows) >= 6


def test_the_totals_are_those_of_the_engine(rig: Rig) -> None:
    stats = rig.engine.stats()
    del stats["series"]
    assert copies.read_totals(copies.copy_totals(rig.engine)) == stats
    assert stats["picked"] == 6


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_endpoints_are_those_of_the_engine(rig: Rig, most: int) -> None:
    rows = []
    for first in range(0, 1000, most):
        if (piece := copies.copy_endpoints(rig.engine, first, most)) is None:
            break
        rows += copies.read_endpoints(piece, rig.now_ns)
    credits = {row["target"]: row.pop("credit") for row in rows}
    assert rows == rig.engine.endpoints(rig.now_ns)
    assert credits == {view.pop("target"): view for view in rig.engine.flow(rig.now_ns)["credits"]}
    assert len(rows) == 4


def test_a_copy_is_of_its_moment(rig: Rig) -> None:
    piece = copies.copy_endpoints(rig.engine, 0, 100)
    before = rig.engine.endpoints(rig.now_ns)
    assert piece is not None
    rig.pool.set_endpoints([])
    rows = copies.read_endpoints(piece, rig.now_ns)
    assert all(row.pop("credit")["in_flight"] == row["requests"] for row in rows)
    assert rows == before


def test_an_empty_engine_has_nothing_to_show() -> None:
    engine = Engine(hash_seed=1)
    assert copies.copy_endpoints(engine, 0, 8) is None
    assert copies.copy_series(engine, 0, 8) == b""  # three series without a count
    assert copies.copy_series(engine, 3, 8) is None
    assert copies.busy_targets(engine) == b""


def test_busy_is_with_requests_of_ours(rig: Rig) -> None:
    (busy,) = copies.busy_targets(rig.engine).split()
    (decision,) = rig.engine.decisions(1)
    assert busy.decode() == decision["endpoint"]
    others = [rig.send(chat(f"{number}" * 5000))[0] for number in range(40)]
    assert set(copies.busy_targets(rig.engine).decode().split()) == {
        view["target"] for view in rig.engine.endpoints(rig.now_ns) if view["requests"]
    }
    for session in others:
        rig.finish(session)
    assert copies.busy_targets(rig.engine).split() == [busy]


@pytest.mark.parametrize("most", [0, 4097])
def test_a_piece_has_bounds(most: int) -> None:
    engine = Engine(hash_seed=1)
    with pytest.raises(ValueError, match="a piece has 1 to 4096 items"):
        copies.copy_series(engine, 0, most)
    with pytest.raises(ValueError, match="a piece has 1 to 4096 items"):
        copies.copy_endpoints(engine, 0, most)


def test_what_is_no_copy_is_refused(rig: Rig) -> None:
    series, endpoints = copies.copy_series(rig.engine, 0, 9), copies.copy_endpoints(rig.engine, 0, 9)
    assert series is not None
    assert endpoints is not None
    for damaged in (series[:-1], b"x"):
        with pytest.raises(ValueError, match="are no copies of"):
            copies.read_series(damaged)
    with pytest.raises(ValueError, match="no copy of a model's figures"):
        copies.read_series(b"\xff" * len(series))
    with pytest.raises(ValueError, match="are no copies of"):
        copies.read_endpoints(endpoints[1:], 0)
    with pytest.raises(ValueError, match="no copy of an endpoint's figures"):
        copies.read_endpoints(b"\xff" * len(endpoints), 0)
    totals = copies.copy_totals(rig.engine)
    for damaged in (b"", totals * 2):
        with pytest.raises(ValueError, match="no copy of the totals"):
            copies.read_totals(damaged)


def test_pointers_in_a_copy_are_not_followed(rig: Rig) -> None:
    """A process cannot read another's: bounds are the reader's own, whatever the copy holds in their place."""
    series = copies.copy_series(rig.engine, 1, 1) or copies.copy_series(rig.engine, 3, 1)
    assert series
    name = 8 + 256  # sizes and name stay, so that it still is a copy
    (row,) = copies.read_series(series[:name] + b"\x01" * (len(series) - name))
    (whole,) = copies.read_series(series)
    for key in ("duration_s", "ttft_s", "input_tokens", "response_bytes"):
        assert [bound for bound, _ in row[key][0]] == [bound for bound, _ in whole[key][0]]


def test_nothing_leaks(rig: Rig) -> None:
    def everything() -> None:
        copies.read_series(copies.copy_series(rig.engine, 0, 9) or b"")
        copies.read_endpoints(copies.copy_endpoints(rig.engine, 0, 9) or b"", 1)
        copies.read_totals(copies.copy_totals(rig.engine))
        copies.busy_targets(rig.engine)
        with pytest.raises(ValueError, match="are no copies of"):
            copies.read_series(b"x")

    assert_flat(everything, calls=50)
