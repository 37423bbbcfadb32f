"""Measure several files side by side: each in its own process, in rounds that alternate.

Whatever disturbs the machine for a while disturbs all of them alike, so ratios of one round can be
trusted where times cannot. The order is turned around every round (A B B A B A A B), and a process
is left alone only when its threads have stopped spinning: they would slow down the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdeploy.bench.client import Worker
from kdeploy.bench.model_session import ModelSession
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.plan import Plan
from kdeploy.bench.system_load import doubts_between, free_bytes, look
from kdeploy.system.machine_turns import measuring
from kdeploy.system.temporary import temporary_folder

Watch = Callable[[str], None]
FREE_SHARE = 0.8  # of the free memory, for the batches of scenario `offline`


def measure_group(
    models: Sequence[ModelUnderTest],
    configuration: Configuration,
    plan: Plan,
    *,
    with_accuracy: bool,
    watch: Watch,
    teacher: str | None = None,
) -> list[Outcome]:
    """Return one outcome a model; what fails carries its reason and stops nothing else.

    Args:
        models: What takes turns.
        configuration: In which runtime and how.
        plan: How long, and on which data answers are judged.
        with_accuracy: Whether they are.
        watch: Called with a line for people at every step.
        teacher: Label of the model beside whose answers those of all others are judged, window by
            window; None: each by itself.
    """
    if configuration.scenario == "offline" and plan.memory_limit_bytes is None:
        share = int(FREE_SHARE * free_bytes() / len(models))
        plan = plan.model_copy(update={"memory_limit": f"{share}B"})
    with measuring(watch), temporary_folder("bench") as folder, ExitStack() as stack:
        sessions = []
        for index, model in enumerate(models):
            watch(f"{configuration}: {model.name} warms up")
            place = folder / str(index)
            sessions.append(stack.enter_context(opened(model, configuration, plan, place)))
        take_turns = _serve if configuration.scenario == "server" else _alternate
        flags = take_turns(sessions, plan, lambda text: watch(f"{configuration}: {text}"))
        for session in sessions:
            watch(f"{configuration}: {session.model.name}, memory and accuracy")
            alone = with_accuracy and teacher is None
            session.finish(with_accuracy=alone, stays_open=with_accuracy and not alone)
        if with_accuracy and teacher is not None:
            file = folder / "teacher.npy"
            _judge_beside(sessions, teacher, plan, file, lambda t: watch(f"{configuration}: {t}"))
        return [session.outcome(flags) for session in sessions]


@contextmanager
def opened(
    model: ModelUnderTest, configuration: Configuration, plan: Plan, folder: Path
) -> Iterator[ModelSession]:
    """Start a process, open the file in it and warm it up; end it afterwards."""
    folder.mkdir()
    session = ModelSession(model, configuration, plan, folder)
    session.prepare()
    with Worker(folder, timeout_seconds=plan.timeout_seconds) as worker:
        session.open(worker)
        yield session


def _alternate(sessions: Sequence[ModelSession], plan: Plan, watch: Watch) -> tuple[str, ...]:
    """Let every session take its turn in every round; return what else the machine did then."""
    before = look([session.pid for session in sessions])
    for number in range(plan.rounds):
        watch(f"round {number + 1} of {plan.rounds}")
        for index in turns(len(sessions), number):
            sessions[index].measure()
    return doubts_between(before, look([session.pid for session in sessions]))


def _serve(sessions: Sequence[ModelSession], plan: Plan, watch: Watch) -> tuple[str, ...]:
    """Let one session after the other look for its rate: a search cannot take turns."""
    before = look([session.pid for session in sessions])
    for session in sessions:
        session.serve(watch)
    return doubts_between(before, look([session.pid for session in sessions]))


def _judge_beside(
    sessions: Sequence[ModelSession], teacher: str, plan: Plan, file: Path, watch: Watch
) -> None:
    """Let all answer the same windows before the next ones; the teacher's logits lie in `file`."""
    assert plan.data is not None, "tokens are compared on data"
    taught = next(session for session in sessions if session.model.label == teacher)
    for part in plan.parts:
        told = {s: reply for s in sessions if (reply := s.begin_beside(plan.data, part))}
        count = max((reply["num_items"] for reply in told.values()), default=0)
        step = max((reply["num_at_once"] for reply in told.values()), default=1)
        for start in range(0, count, step):
            items = range(start, min(start + step, count))
            watch(f"{part}, windows {items.stop} of {count}")
            is_there = taught in told and taught.answer_beside(items, file, role="teacher")
            for other in told:
                if other is not taught:
                    other.answer_beside(items, file, role="beside" if is_there else "alone")
        for session in told:
            session.end_beside(part)
    for session in sessions:
        session.close()


def turns(count: int, number: int) -> list[int]:
    """Return who measures after whom in a round: each round in pairs is the last one turned around.

    Every pair begins with another, so that each is as often first, and as often twice in a row.
    """
    first = number // 2 % count
    order = [*range(first, count), *range(first)]
    return order if number % 2 == 0 else order[::-1]
