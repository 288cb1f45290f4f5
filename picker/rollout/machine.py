"""The rollout as a state machine: what was seen since the last look in, what is to be in force now out.

Pure: no clock, no I/O. `advance` is called at every look; whoever calls it makes the shares it says true.
"""

from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from picker.config.units import format_duration
from picker.rollout.figures import NOTHING, Figures
from picker.rollout.judge import Thresholds, breach

__all__ = ["ObjectKind", "Phase", "Plan", "Sight", "State", "advance", "begin", "compared", "end", "hold", "resume"]

ObjectKind: TypeAlias = Literal["HTTPRoute", "InferenceModelRewrite"]


class Phase(StrEnum):
    """Where a rollout is. Only one that is progressing moves by itself."""

    PROGRESSING = "progressing"
    HELD = "held"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be rolled out and how; fixed when it starts. Times in seconds."""

    kind: ObjectKind
    """Of the object whose weights move."""
    old: str
    """The pool, as `namespace/name`, or the target model."""
    new: str
    new_group: str = ""
    """API group of the new pool."""
    model: str = ""
    """What clients ask for, when adapters are rolled out."""
    steps: tuple[int, ...]
    """The new side's share in each step, per cent, rising."""
    every_s: float
    """How long a step is watched, at least."""
    check_s: float = 5.0
    """Between two looks at the figures."""
    heartbeat_s: float = 10.0
    """Between two signs of life in the object; after three that are missing another controller may take over."""
    hold_limit_s: float = 3600.0
    """How long a step waits for enough requests, beyond its own time."""
    blind_limit_s: float = 300.0
    """How long metrics may be unreadable."""
    warm_up_s: float = 0.0
    """From the start of a step, in which times to first token do not count: caches of new servers are cold."""
    thresholds: Thresholds = Thresholds()


class State(Struct, frozen=True, kw_only=True):
    """How far it has come. The figures are those since the step began."""

    phase: Phase = Phase.PROGRESSING
    step: int = 0
    share: int = 0
    """Per cent of the traffic that the new side is to have."""
    watched_s: float = 0.0
    """How long this step was watched with readable metrics."""
    blind_s: float = 0.0
    """How long no metrics could be read, without a break."""
    new_blind_s: float = 0.0
    """How long those of the new side alone could not."""
    old: Figures = NOTHING
    new: Figures = NOTHING
    baseline: Figures = NOTHING
    """Of the old side before, for steps that leave it too few requests to compare with."""
    reason: str = ""
    """Why it is in this phase."""
    note: str = ""
    """What it waits for."""


class Sight(Struct, frozen=True, kw_only=True):
    """What a look showed: the time since the last one, and what was counted in it; None: it could not be read."""

    elapsed_s: float
    old: Figures | None
    new: Figures | None
    problem: str = ""

    def then(self, later: "Sight") -> "Sight":
        """Both looks as one."""
        return Sight(
            elapsed_s=self.elapsed_s + later.elapsed_s,
            old=_sum(self.old, later.old),
            new=_sum(self.new, later.new),
            problem=later.problem,
        )


def _sum(one: Figures | None, other: Figures | None) -> Figures | None:
    return one.plus(other) if one is not None and other is not None else one or other


def begin(plan: Plan, baseline: Figures = NOTHING) -> State:
    """The first step. `baseline`: what the old side did before."""
    return State(share=plan.steps[0], baseline=baseline, note="the first step begins")


def hold(state: State, reason: str) -> State:
    """Stopped where it is, for a person to decide."""
    return replace(state, phase=Phase.HELD, reason=reason, note="")


def end(state: State, phase: Phase, reason: str) -> State:
    """Over: with all of the traffic on the new side, or none."""
    return replace(state, phase=phase, share=100 if phase is Phase.COMPLETED else 0, reason=reason, note="")


def resume(state: State) -> State:
    """Going on after a hold, or after the controller was gone: with the clocks of waiting at zero."""
    watched_s = state.watched_s if state.phase is Phase.PROGRESSING else 0.0
    return replace(state, phase=Phase.PROGRESSING, reason="", watched_s=watched_s, blind_s=0.0, new_blind_s=0.0)


def advance(plan: Plan, state: State, sight: Sight) -> State:
    """What is to be in force now."""
    if state.phase is not Phase.PROGRESSING:
        return state
    state = _noted(plan, state, sight)
    found = breach(plan.thresholds, compared(plan, state), state.new, surely=True)
    if found:
        return end(state, Phase.ROLLED_BACK, f"at {state.share} %: {found}")
    if sight.old is None or sight.new is None:
        return _blind(plan, state, sight)
    return _watched(plan, state)


def compared(plan: Plan, state: State) -> Figures:
    """What the new side is held against: the old one in this step, or before if the step leaves it too few requests."""
    enough = state.old.requests >= plan.thresholds.min_requests
    return state.old if enough or state.old.requests >= state.baseline.requests else state.baseline


def _noted(plan: Plan, state: State, sight: Sight) -> State:
    """With the figures and times of the look."""
    is_warm = state.watched_s >= plan.warm_up_s
    old, new = sight.old or NOTHING, sight.new or NOTHING
    if not is_warm:
        old, new = old.untimed(), new.untimed()
    is_seen = sight.old is not None and sight.new is not None
    is_new_alone = sight.new is None and sight.old is not None
    return replace(
        state,
        old=state.old.plus(old),
        new=state.new.plus(new),
        watched_s=state.watched_s + (sight.elapsed_s if is_seen else 0.0),
        new_blind_s=state.new_blind_s + sight.elapsed_s if is_new_alone else 0.0,
        blind_s=0.0 if is_seen else state.blind_s + sight.elapsed_s,
    )


def _blind(plan: Plan, state: State, sight: Sight) -> State:
    """If only the new side is silent, it is at fault; if both are, what reads them may be, and nothing is moved."""
    limit = format_duration(plan.blind_limit_s)
    if state.new_blind_s >= plan.blind_limit_s:
        reason = f"at {state.share} %: metrics of the new side alone could not be read for {limit}: {sight.problem}"
        return end(state, Phase.ROLLED_BACK, reason)
    if state.blind_s >= plan.blind_limit_s:
        return hold(state, f"at {state.share} %: metrics could not be read for {limit}: {sight.problem}")
    return replace(state, note=f"waits for metrics, for {state.blind_s:.0f} s now: {sight.problem}")


def _watched(plan: Plan, state: State) -> State:
    limits = plan.thresholds
    if state.watched_s < plan.every_s:
        return replace(state, note=f"watching, {state.watched_s:.0f} s of {format_duration(plan.every_s)}")
    if state.new.requests < limits.min_requests:
        few = f"too few requests of the new side: {state.new.requests:.0f}, at least {limits.min_requests} wanted"
        if state.watched_s >= plan.every_s + plan.hold_limit_s:
            return hold(state, f"at {state.share} %: {few}, after {format_duration(plan.hold_limit_s)} of waiting")
        return replace(state, note=few)
    found = breach(limits, compared(plan, state), state.new, surely=False)
    if found:
        return end(state, Phase.ROLLED_BACK, f"at {state.share} %, at the end of the step: {found}")
    return _next(plan, state)


def _next(plan: Plan, state: State) -> State:
    step = state.step + 1
    if step == len(plan.steps):
        return replace(end(state, Phase.COMPLETED, "every step was passed"), share=state.share)
    share = plan.steps[step]
    return State(step=step, share=share, baseline=compared(plan, state), note=f"{share} % begins")
