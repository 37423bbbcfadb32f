"""The page of a search: its front, what mattered, what was tried, and why it lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdeploy.errors import shown
from kdeploy.measurement import METRICS
from kdeploy.pipeline.rundir import write_text
from kdeploy.runtimes.run import this_machine
from kdeploy.search.finalists import Finalists
from kdeploy.search.front import Costs, costs, front_of, front_trials, hypervolume
from kdeploy.search.importance import importances
from kdeploy.search.settings import Settings
from kdeploy.search.trials import STATES, Trial
from kdeploy.units import format_quantity, format_seconds

TEMPLATE = "report.html.jinja"
WIDTH, HEIGHT, MARGIN = 640.0, 300.0, 24.0  # of a drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A trial in a drawing: where, and what of it is said."""

    x: float
    y: float
    text: str
    is_front: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Dots, and the lines that the front was after each quarter of the trials."""

    dots: tuple[Dot, ...]
    lines: tuple[str, ...]
    x_name: str
    y_name: str
    x_ends: tuple[str, str]
    y_ends: tuple[str, str]


def write_search_report(
    path: Path,
    trials: Sequence[Trial],
    settings: Settings,
    teacher: Mapping[str, float],
    finalists: Finalists,
) -> None:
    """Replace the page in one step; it needs no network and no script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    objectives = settings.section.objectives
    front = {t.number for t in front_trials(trials, objectives)}
    volumes = volumes_of(trials, objectives)
    page = environment.get_template(TEMPLATE).render(
        name=settings.recipe.name,
        objectives=objectives,
        states=[(s, sum(t.state == s for t in trials), about) for s, about in STATES.items()],
        seconds=format_seconds(sum(t.seconds for t in trials)),
        saved=format_seconds(sum(t.saved_seconds for t in trials)),
        drawing=_drawing(trials, settings, front),
        volumes=_line(list(enumerate(volumes))) if len(volumes) > 1 else "",
        volume=volumes[-1] if volumes else 0.0,
        importances=importances(trials, settings),
        main=settings.main,
        teacher=_shown(settings.main, teacher.get(settings.main)),
        keys=[d.key for d in settings.space.dimensions],
        rows=[_row(t, settings, t.number in front) for t in trials],
        finalists=_finalists(finalists, settings),
        best=finalists.best,
        because=finalists.because,
        gates=[g.text for g in settings.recipe.gates],
        machine=this_machine(),
        width=WIDTH,
        height=HEIGHT,
    )
    write_text(path, page)


def volumes_of(trials: Sequence[Trial], objectives: Sequence[str]) -> list[float]:
    """Return the share of the hypervolume of all trials that each beginning of them has."""
    known = [c for t in trials if t.is_feasible and (c := costs(t.values, objectives))]
    if not known:
        return []
    reference = tuple(max(c[i] for c in known) + 1e-9 for i in range(len(objectives)))
    whole = hypervolume(known, reference)
    found, seen = [], list[Costs]()
    for trial in trials:
        own = costs(trial.values, objectives) if trial.is_feasible else None
        seen += [] if own is None else [own]
        found.append(hypervolume(seen, reference) / whole if whole else 0.0)
    return found


def _drawing(trials: Sequence[Trial], settings: Settings, front: set[int]) -> Drawing | None:
    """Return accuracy over the first objective that is none, with the front as it grew."""
    main = settings.main
    other = next((m for m in settings.section.objectives if not METRICS[m].is_judged), None)
    known = [t for t in trials if t.state == "complete" and main in t.values]
    known = [t for t in known if other is not None and other in t.values]
    if other is None or len(known) < 2:
        return None
    place = _Place([_pair(t, other, main) for t in known])
    lines = []
    for quarter in (1, 2, 3, 4):
        seen = [t for t in known if t.number < len(trials) * quarter / 4 and t.is_feasible]
        pairs = [_pair(t, other, main) for t in seen]
        lines.append(" ".join(place(p) for p in sorted(pairs[i] for i in front_of(pairs))))
    dots = []
    for trial in known:
        x, y = place(_pair(trial, other, main)).split(",")
        text = f"trial {trial.number}: {_shown(main, trial.values[main])}, "
        text += _shown(other, trial.values[other])
        dots.append(Dot(x=float(x), y=float(y), text=text, is_front=trial.number in front))
    xs, ys = ([t.values[m] for t in known] for m in (other, main))
    return Drawing(
        dots=tuple(dots),
        lines=tuple(lines),
        x_name=other,
        y_name=main,
        x_ends=_ends(other, xs),
        y_ends=_ends(main, ys),
    )


def _ends(metric: str, values: Sequence[float]) -> tuple[str, str]:
    low, high = _shown(metric, min(values)), _shown(metric, max(values))
    return (low, high) if METRICS[metric].better == "lower" else (high, low)


def _pair(trial: Trial, other: str, main: str) -> tuple[float, float]:
    found = costs(trial.values, [other, main])
    assert found is not None, "only trials with both values are drawn"
    return found[0], found[1]


class _Place:
    """Puts pairs of costs into the drawing, the best of both in the lower left."""

    def __init__(self, pairs: Sequence[tuple[float, float]]) -> None:
        self._low = [min(p[i] for p in pairs) for i in (0, 1)]
        self._span = [(max(p[i] for p in pairs) - self._low[i]) or 1.0 for i in (0, 1)]

    def __call__(self, pair: tuple[float, float]) -> str:
        x, y = ((pair[i] - self._low[i]) / self._span[i] for i in (0, 1))
        inner = (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN)
        return f"{MARGIN + x * inner[0]:.1f},{HEIGHT - MARGIN - y * inner[1]:.1f}"


def _line(pairs: Sequence[tuple[float, float]]) -> str:
    place = _Place(pairs)
    return " ".join(place(pair) for pair in pairs)


def _row(trial: Trial, settings: Settings, is_front: bool) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "is_front": is_front,
        "parameters": [_text(trial.parameters[d.key]) for d in settings.space.dimensions],
        "values": [_shown(m, trial.values.get(m)) for m in settings.section.objectives],
        "seconds": format_seconds(trial.seconds),
        "reason": shown(trial.reason),
    }


def _finalists(finalists: Finalists, settings: Settings) -> list[dict[str, Any]]:
    main = settings.main
    others = [m for m in settings.section.objectives if m != main]
    return [
        {
            "number": f.number,
            "searched": [_shown(m, f.searched.get(m)) for m in (main, *others)],
            "again": [_shown(m, f.values.get(m)) for m in (main, *others)],
            "seeds": ", ".join(_shown(main, s) for s in f.scores),
            "test": _shown(main, f.test.get(main)),
            "error": shown(f.error),
        }
        for f in finalists.finalists
    ]


def _shown(metric: str, value: float | None) -> str:
    return "" if value is None else format_quantity(value, METRICS[metric].unit)


def _text(value: object) -> str:
    return shown(value if isinstance(value, str) else json.dumps(value))
