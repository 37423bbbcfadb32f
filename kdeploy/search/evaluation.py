"""What becomes of a batch of candidates: the cheapest question first, the dear ones for few.

1. Untrained they are exported, quantized and timed: what misses a gate on speed, size or memory is
   never trained, because a network is as fast untrained as trained.
2. A share of the epochs ranks nearly as all of them: what is behind a third of the others stops.
3. The rest is trained to the end, and measured on the validation part beside the teacher.

Trainings of a batch run side by side, timings alone, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdeploy.measurement import METRICS
from kdeploy.pipeline.log import RunListener
from kdeploy.search.constraints import (
    TOLERANCE,
    is_known_before_training,
    missed,
    violations,
)
from kdeploy.search.front import Costs, costs, ranks
from kdeploy.search.settings import Settings
from kdeploy.search.space import Point
from kdeploy.search.trials import State, Trial
from kdeploy.search.workers import Answer, Workers
from kdeploy.system.machine_turns import timing, training

PASSED_SHARE = 1 / 3
"""Of the candidates so far: so many may be better before one is stopped."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A trial that is being made."""

    number: int
    point: Point
    epochs: int
    """Of all its trainings; 0: nothing is trained."""
    state: State | None = None
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    short: float | None = None
    steps: dict[str, float] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    timed: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    files: list[Mapping[str, Any]] = field(default_factory=list)

    def end(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason

    def trial(self, known_seconds: Mapping[str, float]) -> Trial:
        """Return what is kept; of steps that were found, what they took when they were made."""
        assert self.state is not None, "a candidate that is kept has ended"
        found = self.found - self.steps.keys()
        return Trial(
            number=self.number,
            state=self.state,
            parameters=self.point,
            values=self.values,
            reason=self.reason,
            gates=self.gates,
            untrained=self.untrained,
            short=self.short,
            seconds=round(self.seconds, 3),
            saved_seconds=round(sum(known_seconds.get(step, 0.0) for step in found), 3),
            steps=self.steps,
            timed=self.timed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Makes trials of points; `teacher` is what answers of the teacher are worth."""

    settings: Settings
    workers: Workers
    teacher: Mapping[str, float]
    listener: RunListener
    known_seconds: dict[str, float] = field(default_factory=dict)
    """What steps of other candidates took, by artefact."""

    def batch(self, candidates: Sequence[Candidate], history: Sequence[Trial]) -> list[Trial]:
        """Return the trials of candidates that are made side by side."""
        self._make(candidates, "untrained")
        self._time_untrained(candidates)
        shortened = [c for c in candidates if c.epochs * self.settings.section.look >= 1]
        is_shared = self.settings.shared is not None
        if self.settings.section.look < 1 and not is_shared:
            self._make(shortened, "short")
            self._stop_some(shortened, history)
        self._make(candidates, "cut" if is_shared else "whole")
        self._judge(candidates)
        for trial in history:
            self.known_seconds.update(trial.steps)
        for candidate in candidates:
            self.known_seconds.update(candidate.steps)
        return [c.trial(self.known_seconds) for c in candidates]

    def _make(self, candidates: Sequence[Candidate], version: str) -> None:
        left = [c for c in candidates if c.state is None]
        if not left:
            return
        self.listener.status(f"{_named(left)}: {_DOING[version]}")
        with training():
            answers = self._timed_answers(left, version)
        for candidate, answer in zip(left, answers, strict=True):
            if answer.error:
                candidate.end("failed", answer.error)
                continue
            reply = answer.reply
            candidate.steps |= reply["steps"]
            candidate.found |= set(reply["found"])
            if version == "short":
                candidate.short = reply["score"]
            else:
                candidate.files = [reply["teacher"], reply["file"]]

    def _timed_answers(self, left: Sequence[Candidate], version: str) -> list[Answer]:
        started = time.monotonic()
        requests = [
            self.settings.request(
                "make", c.point, version=version, share=self.settings.section.look
            )
            for c in left
        ]
        answers = self.workers.ask_all(requests)
        for candidate in left:  # side by side they share the time
            candidate.seconds += (time.monotonic() - started) / len(left)
        return answers

    def _time_untrained(self, candidates: Sequence[Candidate]) -> None:
        gates = [g for g in self.settings.recipe.gates if is_known_before_training(g.metric)]
        for candidate in candidates:
            measured = self._measured(candidate, parts=())
            if measured is None:
                continue
            candidate.untrained = measured["values"]
            candidate.values = dict(measured["values"])
            found = violations(gates, candidate.values, measured["baseline"])
            if any(value > TOLERANCE for value in found.values()):
                candidate.gates = found
                reasons = missed(gates, candidate.values, found)
                candidate.end("rejected", f"untrained: {'; '.join(reasons)}")

    def _stop_some(self, candidates: Sequence[Candidate], history: Sequence[Trial]) -> None:
        """Stop what is behind others after the short training; earlier ones are seen by later."""
        seen = [c for t in history if (c := self._short_costs(t.short, t.untrained)) is not None]
        for candidate in candidates:
            own = self._short_costs(candidate.short, candidate.untrained)
            if candidate.state is not None or own is None:
                continue
            seen.append(own)
            found = ranks(seen)
            better = sum(rank < found[-1] for rank in found)
            if better >= PASSED_SHARE * len(seen):
                main = self.settings.main
                if is_score(main):
                    candidate.values[main] = own[0] * -1
                share = self.settings.section.look
                candidate.end(
                    "stopped",
                    f"after {share:.0%} of its epochs its validation score is"
                    f" {candidate.short:.4g}: {better} of {len(seen) - 1} others rank before it",
                )

    def _short_costs(self, short: float | None, untrained: Mapping[str, float]) -> Costs | None:
        unjudged = [m for m in self.settings.section.objectives if not METRICS[m].is_judged]
        known = costs(untrained, unjudged)
        return None if short is None or known is None else (-short, *known)

    def _judge(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            measured = self._measured(candidate, parts=("validation",))
            if measured is None:
                continue
            gates = self.settings.recipe.gates
            candidate.values = measured["values"]
            baseline = {**measured["baseline"], **self.teacher}
            candidate.gates = violations(gates, candidate.values, baseline)
            reasons = missed(gates, candidate.values, candidate.gates)
            absent = [m for m in self.settings.section.objectives if m not in candidate.values]
            if absent:
                candidate.end("failed", f"{', '.join(absent)} was not measured")
            else:
                candidate.end("complete", "; ".join(reasons))

    def _measured(self, candidate: Candidate, *, parts: tuple[str, ...]) -> dict[str, Any] | None:
        """Return what a candidate's file was measured to be, alone on the machine."""
        if candidate.state is not None:
            return None
        self.listener.status(f"{_named([candidate])}: is measured")
        started = time.monotonic()
        request = self.settings.request(
            "measure", candidate.point, files=candidate.files, parts=parts, use_cache=True
        )
        with timing():
            answer = self.workers.ask_alone(request)
        candidate.seconds += time.monotonic() - started
        measured: dict[str, Any] = answer.reply["measured"][0] if not answer.error else {}
        if answer.error or measured["reason"]:
            candidate.end("failed", answer.error or f"its file cannot run: {measured['reason']}")
            return None
        candidate.timed.append(list(measured["timed"]))
        return measured


def is_score(metric: str) -> bool:
    """Return whether a metric is what a training calls the score of the validation part."""
    return METRICS[metric].unit == "fraction" and METRICS[metric].better == "higher"


_DOING = {
    "untrained": "built, compressed and exported untrained",
    "short": "trained for a share of the epochs",
    "cut": "cut out of the largest student, which is trained once",
    "whole": "trained to the end",
}


def _named(candidates: Sequence[Candidate]) -> str:
    numbers = ", ".join(str(c.number) for c in candidates)
    return f"trial{'s' if len(candidates) > 1 else ''} {numbers}"
