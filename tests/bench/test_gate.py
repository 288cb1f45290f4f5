"""The gate's own arithmetic: what is read of callgrind, what is compared with what, what is said on purpose.

That it trips on a real slowdown is shown by `make bench-gate-proof`.
"""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import bases, ir
from benchmarks.callgrind import Count, CountingFailed, Counts, read_dump
from benchmarks.cases import read
from benchmarks.cases.case import Case, Growth

DUMP = """\
version: 1
desc: Trigger: Client Request: 7
events: Ir Dr Dw D1mr D1mw Bcm
ob=(1) /x/lib/libc.so.6
fl=(1) string.c
fn=(1) memcpy
10 100 0 0 5 6 7
ob=(2) /x/picker/_core/radix.cpython-311-x86_64-linux-gnu.so
fl=(2) radix.c
fn=(2) radix_match
12 40 0 0 1 2 3
+2 2
cob=(1)
cfi=(1)
cfn=(1)
calls=1 10
-1 100 0 0 5 6 7
fi=(3) runs.pxd
* 8
fn=(3) __pyx_pw_6picker_5_core_5radix_5Radix_3match_into
5 3
ob=(1)
fn=(1)
10 30
ob=(3) /usr/bin/python3.11
fn=(4) _PyEval_EvalFrameDefault
1 5000
totals: 5183
"""


def count(ir: int) -> Count:
    return Count(Counter({("radix", "match"): ir}), Counter({"Ir": ir}))


def counts(**by_case: int) -> Counts:
    return Counts({name: count(ir) for name, ir in by_case.items()}, {})


def test_only_what_the_core_itself_spends_counts() -> None:
    mark, found = read_dump(DUMP.splitlines(keepends=True))
    assert mark == "7"
    assert found.functions == {
        ("radix", "radix_match"): 50,
        ("radix", "__pyx_pw_6picker_5_core_5radix_5Radix_3match_into"): 3,
    }
    assert (found.ir, found.elsewhere) == (53, 130)
    assert (found.events["D1mr"], found.events["D1mw"], found.events["Bcm"]) == (1, 2, 3)


@pytest.mark.parametrize(
    ("base", "head", "is_slower"), [(1000, 1020, False), (1000, 1021, True), (1000, 500, False), (0, 1, True)]
)
def test_two_percent_more_is_too_much(base: int, head: int, is_slower: bool) -> None:
    (verdict,) = ir.judged(counts(a=head), counts(a=base), [])
    assert verdict.is_slower == is_slower


def test_a_new_case_is_compared_with_nothing() -> None:
    (verdict,) = ir.judged(counts(a=10), counts(), [])
    assert (verdict.change, verdict.is_slower) == (None, False)
    (verdict,) = ir.judged(counts(a=10), None, [])
    assert not verdict.is_slower


def test_commits_may_say_why() -> None:
    said = [
        "Check more\n\nPerf-Ir: radix: match* +7 % because holders are checked too\n",
        "Other\n\nPerf-Ir: radix: match of 512 +3% because of that\nPerf-Ir: all of it +3 %\nPerf-Ir: scan because x",
    ]
    stated, odd = ir.allowances(said)
    assert [(one.pattern, round(one.share, 3)) for one in stated] == [
        ("radix: match*", 0.07),
        ("radix: match of 512", 0.03),
    ]
    assert odd == ["Perf-Ir: all of it +3 %", "Perf-Ir: scan because x"]
    assert ir.allowed("radix: match of 512", stated) == pytest.approx(1.07 * 1.03 - 1)
    assert ir.allowed("radix: match of 8", stated) == pytest.approx(0.07)
    assert ir.allowed("scan: a body", stated) == ir.MOST


def test_less_than_two_percent_cannot_be_said() -> None:
    stated, _ = ir.allowances(["Perf-Ir: a +1 % because it is so"])
    assert ir.allowed("a", stated) == ir.MOST


@pytest.mark.parametrize(
    ("order", "large", "is_worse"),
    [
        ("1", 109, False),
        ("1", 111, True),
        ("log n", 142, False),
        ("log n", 145, True),
        ("n", 879, False),
        ("n", 881, True),
        ("n log n", 1100, False),
        ("n log n", 1150, True),
    ],
)
def test_growth_is_held_to_its_order(order: str, large: int, is_worse: bool) -> None:
    growth = Growth("g", lambda n: lambda: n, 1024, order)
    small_case, large_case = growth.cases
    (found,) = ir.grown([growth], counts(**{small_case.name: 100, large_case.name: large}))
    assert found.is_worse == is_worse


def test_growth_of_what_was_not_measured_is_not_judged() -> None:
    assert ir.grown([Growth("g", lambda n: lambda: n, 8, "n")], counts(other=1)) == []


def test_a_case_that_is_not_run_by_anything_is_missed(tmp_path: Path) -> None:
    (tmp_path / "_core").mkdir()
    for name in ("radix", "alloc", "lru"):
        (tmp_path / "_core" / f"{name}.pyx").touch()
    assert ir.unreached(counts(a=1), tmp_path) == ["lru"]


def test_what_moved_is_named() -> None:
    head = Count(Counter({("radix", "__pyx_f_6picker_5_core_5radix_radix_match"): 90, ("lru", "lru_add"): 10}))
    base = Count(Counter({("radix", "__pyx_f_6picker_5_core_5radix_radix_match"): 50, ("lru", "lru_add"): 30}))
    assert ir.moved(ir.Verdict("a", head, base, 0.02)) == ["+40 in radix_radix_match (radix)"]


# --- cases ---


def test_cases_can_be_read_and_have_their_module_in_their_name() -> None:
    cases, growths, failed = read()
    assert failed == {}
    modules = {path.stem for path in (bases.ROOT / "_core").glob("*.pyx")}
    assert [case.name for case in cases if case.name.partition(":")[0] not in modules] == []
    assert len(growths) > 20


def test_a_figure_is_told_in_its_unit() -> None:
    assert Case("a", lambda: lambda: 0, "us", per=10).figure(1e-3) == pytest.approx(100)
    rate = Case("a", lambda: lambda: 0, "GB/s", per=1e6)
    assert (rate.figure(1e-3), rate.higher_is_better) == (pytest.approx(1.0), True)
    with pytest.raises(ValueError, match="unit"):
        Case("a", lambda: lambda: 0, "days")


# --- what a change is compared with ---


class Repository:
    """A repository of commits that hold next to nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self("init", "-q", "-b", "main")

    def __call__(self, *arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.root), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, text: str = "x") -> str:
        (self.root / "_core").mkdir(exist_ok=True)
        (self.root / "_core" / "a.pyx").write_text(text)
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "-m", text)
        return self("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def chosen(repository: Repository, asked: str = "") -> str:
    base = bases.choose(asked, repository.root)
    assert base is not None
    return base.commit


def test_a_branch_is_compared_with_where_it_left_main(repository: Repository) -> None:
    left = repository.commit("a")
    repository("checkout", "-q", "-b", "mine")
    repository.commit("b")
    repository("checkout", "-q", "main")
    repository.commit("c")
    repository("checkout", "-q", "mine")
    assert chosen(repository) == left
    assert chosen(repository, "main") == left


def test_main_itself_is_compared_with_what_was_there_before(repository: Repository) -> None:
    first = repository.commit("a")
    for number in range(3):
        repository.commit(str(number))
    assert chosen(repository) == first


def test_on_main_so_many_commits_are_looked_at_together(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "TOGETHER", 2)
    commits = [repository.commit(str(number)) for number in range(5)]
    assert chosen(repository) == commits[2]


def test_what_is_not_committed_is_compared_with_head(repository: Repository) -> None:
    repository.commit("a")
    head = repository.commit("b")
    (repository.root / "_core" / "a.pyx").write_text("changed")
    assert chosen(repository) == head


def test_a_revision_may_be_asked_for(repository: Repository) -> None:
    commits = [repository.commit(str(number)) for number in range(4)]
    assert chosen(repository, "HEAD~2") == commits[1]
    with pytest.raises(CountingFailed, match="no revision 'nonsense'"):
        bases.choose("nonsense", repository.root)


def test_the_first_commit_has_nothing_to_be_compared_with(repository: Repository) -> None:
    repository.commit("a")
    assert bases.choose(root=repository.root) is None


def test_messages_are_those_of_the_change(repository: Repository) -> None:
    base = repository.commit("a")
    repository.commit("b\n\nPerf-Ir: x +3 % because y")
    repository.commit("c")
    assert [text.strip() for text in bases.messages(base, repository.root)] == ["c", "b\n\nPerf-Ir: x +3 % because y"]


def test_objects_of_equal_sources_are_taken_over(tmp_path: Path) -> None:
    head, tree = tmp_path / "head", tmp_path / "tree"
    for root in (head, tree):
        (root / "_core").mkdir(parents=True)
        (root / "setup.py").write_text("same")
        (root / "_core" / "same.pyx").write_text("same")
        (root / "_core" / "other.pyx").write_text(root.name)
    for name in ("same.c", "same.cpython-311.so", "gone.c"):
        (head / "_core" / name).touch()
    bases._share(head, tree)
    assert (tree / "_core" / "same.pyx").stat().st_mtime == (head / "_core" / "same.pyx").stat().st_mtime
    assert (tree / "_core" / "other.pyx").stat().st_mtime >= (head / "_core" / "other.pyx").stat().st_mtime
    assert (tree / "_core" / "same.c").exists() and not (tree / "_core" / "gone.c").exists()
    assert (tree / bases.BUILT / "picker" / "_core" / "same.cpython-311.so").exists()
