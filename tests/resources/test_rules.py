"""Which rule wins: against a model that asks the question for one request at a time."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from picker._core.rewrite import Rewrites
from picker.resources.objects import (
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    Match,
    Metadata,
    ModelMatch,
    ModelSpec,
    ModelTarget,
    ObjectiveSpec,
    PoolRef,
    Resource,
    RewriteRule,
    RewriteSpec,
    TargetModel,
)
from picker.resources.rules import objectives, of_pool, rewrite_rules

ANY = Match()


def created(day: int | None) -> datetime | None:
    return None if day is None else datetime(2026, 1, day, tzinfo=UTC)


def match(model: str) -> Match:
    return Match(model=ModelMatch(value=model))


def rewrite(name: str, *rules: tuple[list[Match], str], day: int | None = None, pool: str = "p") -> Resource:
    """Rules of one target each."""
    made = tuple(RewriteRule(matches=tuple(on), targets=(ModelTarget(modelRewrite=to),)) for on, to in rules)
    metadata = Metadata(name=name, creationTimestamp=created(day))
    return InferenceModelRewrite(metadata=metadata, spec=RewriteSpec(poolRef=PoolRef(name=pool), rules=made))


def retired(name: str, model: str, *targets: tuple[str, int | None], day: int | None = None) -> Resource:
    made = tuple(TargetModel(name=target, weight=weight) for target, weight in targets)
    spec = ModelSpec(modelName=model, targetModels=made, poolRef=PoolRef(name="p"))
    return InferenceModel(metadata=Metadata(name=name, creationTimestamp=created(day)), spec=spec)


def sent(objects: list[Resource], model: str, **more: Any) -> str | None:
    """Where the core sends a request for `model` under these objects."""
    found = Rewrites(rewrite_rules(objects, **more)).choose(model.encode(), 0)
    return None if found is None else found.decode()


def test_a_rule_for_the_model_goes_before_one_for_any() -> None:
    objects = [rewrite("old", ([], "any"), day=1), rewrite("new", ([match("llama")], "own"), day=2)]
    assert (sent(objects, "llama"), sent(objects, "qwen")) == ("own", "any")


def test_the_oldest_object_counts() -> None:
    objects = [rewrite(name, ([match("m")], name), day=day) for name, day in (("c", None), ("b", 2), ("a", 3))]
    assert sent(objects, "m") == "b"
    assert sent(objects[::2], "m") == "a"  # the one without a time is as new as can be


def test_of_one_age_the_first_name_counts() -> None:
    for day in (None, 5):
        assert sent([rewrite(name, ([], name), day=day) for name in "bca"], "m") == "a"


def test_the_first_rule_in_the_object_counts() -> None:
    assert sent([rewrite("o", ([match("x")], "1"), ([match("m")], "2"), ([match("m")], "3"))], "m") == "2"
    assert sent([rewrite("o", ([], "1"), ([], "2"))], "m") == "1"


def test_any_of_the_matches_will_do() -> None:
    objects = [rewrite("o", ([match("a"), match("b")], "t"))]
    assert [sent(objects, model) for model in "abc"] == ["t", "t", None]
    assert sent([rewrite("o", ([match("a"), ANY], "t"))], "z") == "t"


def test_objects_for_other_pools_count_for_nothing() -> None:
    objects = [rewrite("o", ([], "theirs"), pool="q"), rewrite("z", ([], "ours"))]
    assert sent(objects, "m", pool="p") == "ours"
    assert sent(objects, "m") == "theirs"
    assert rewrite_rules(objects[:1], pool="p") == ()


def test_retired_objects_rewrite_too() -> None:
    objects = [retired("a", "m", ("v1", 3), ("v2", 1)), retired("b", "plain")]
    assert rewrite_rules(objects) == (("a", "m", (("v1", 3), ("v2", 1))),)
    assert sent([*objects, rewrite("z", ([match("m")], "new"), day=1)], "m") == "new"


def test_objectives_rewrite_nothing() -> None:
    spec = ObjectiveSpec(poolRef=PoolRef(name="p"), priority=1)
    assert rewrite_rules([InferenceObjective(metadata=Metadata(name="o"), spec=spec)]) == ()


MATCHES = st.lists(st.sampled_from([match("a"), match("b"), ANY]), max_size=2)
OBJECTS = st.lists(
    st.builds(
        lambda name, rules, day, pool: rewrite(name, *rules, day=day, pool=pool),
        st.sampled_from("no"),
        st.lists(st.tuples(MATCHES, st.sampled_from("xyz")), max_size=3),
        st.none() | st.integers(1, 2),
        st.sampled_from("pq"),
    ),
    max_size=4,
)


def expected(objects: list[Any], model: str) -> tuple[str, str] | None:
    """Object and target, by asking every rule of every object in turn."""

    def fits(rule: RewriteRule, exactly: bool) -> bool:
        if not exactly:
            return not rule.matches or ANY in rule.matches
        return match(model) in rule.matches

    def age(each: Any) -> tuple[Any, ...]:
        return each.metadata.creationTimestamp is None, each.metadata.creationTimestamp or 0, each.metadata.name

    for exactly in (True, False):
        for each in sorted((each for each in objects if each.spec.poolRef.name == "p"), key=age):
            for rule in each.spec.rules:
                if fits(rule, exactly):
                    return each.metadata.name, rule.targets[0].modelRewrite
    return None


@given(OBJECTS, st.sampled_from("abc"))
def test_equals_the_model(objects: list[Any], model: str) -> None:
    rewrites = Rewrites(rewrite_rules(objects, pool="p"))
    found = rewrites.choose(model.encode(), 0)
    wanted = expected(objects, model)
    assert found == (wanted[1].encode() if wanted else None)
    assert rewrites.counts() == ([(wanted[0], model, wanted[1], 1)] if wanted else [])


# --- objectives ---


def objective(name: str, priority: int = 0, day: int | None = None, *, pool: str = "p", **more: str) -> Resource:
    ref = PoolRef(
        name=pool, group=more.pop("group", "inference.networking.k8s.io"), kind=more.pop("kind", "InferencePool")
    )
    metadata = Metadata(name=name, creationTimestamp=created(day), **more)
    return InferenceObjective(metadata=metadata, spec=ObjectiveSpec(poolRef=ref, priority=priority))


def criticality(name: str, level: Any) -> Resource:
    spec = ModelSpec(modelName=f"of-{name}", poolRef=PoolRef(name="p"), criticality=level)
    return InferenceModel(metadata=Metadata(name=name), spec=spec)


def test_an_objective_is_its_priority() -> None:
    assert objectives([objective("high", 5), objective("low", -1), objective("plain")]) == {
        "high": 5,
        "low": -1,
        "plain": 0,
    }
    assert objectives([rewrite("o", ([], "t"))]) == {}


def test_a_criticality_is_a_priority() -> None:
    models = [criticality(str(level), level) for level in ("Critical", "Standard", "Sheddable", None)]
    assert objectives(models) == {"Critical": 1, "Standard": 0, "Sheddable": -1, "None": 0}


def test_an_objective_goes_before_a_model_of_its_name_and_the_oldest_before_others() -> None:
    assert objectives([criticality("o", "Critical"), objective("o", 7)]) == {"o": 7}
    assert objectives([objective("o", 1, 2), objective("o", 2, 1, namespace="z")]) == {"o": 2}


def test_only_the_objects_of_the_pool_count() -> None:
    ours = objective("ours", namespace="n")
    others = [
        objective("pool", pool="q", namespace="n"),
        objective("namespace", namespace="m"),
        objective("group", group="inference.networking.x-k8s.io", namespace="n"),
        objective("kind", kind="Service", namespace="n"),
    ]
    of = {"pool": "p", "namespace": "n", "group": "inference.networking.k8s.io"}
    assert of_pool([ours, *others, filed := objective("filed")], **of) == (
        ours,
        filed,
    )  # one of a file has no namespace
    assert list(objectives([ours, *others], **of)) == ["ours"]
    assert len(of_pool([ours, *others])) == 5


def test_rules_are_of_the_pool_too() -> None:
    mine, theirs = rewrite("a", ([], "mine")), rewrite("b", ([], "theirs"))
    theirs = msgspec.structs.replace(theirs, metadata=Metadata(name="a0", namespace="m"))
    assert sent([theirs, mine], "x", pool="p", namespace="n") == "mine"
