"""Advise: read a model, measure for a minute, answer with two or three recipes that run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kdeploy.advise.facts import ModelFacts, facts_of
from kdeploy.advise.measured import ITEMS, RUNTIME, Measured, measure
from kdeploy.advise.rules import RULES, Expected, Rule, Sentence, Situation
from kdeploy.advise.targets import Needs, fit, needs_of
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference
from kdeploy.errors import ModelError
from kdeploy.gate import Gate
from kdeploy.pipeline.artifact_data import data_of
from kdeploy.pipeline.building import model_of_teacher
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.rundir import write_json, write_text
from kdeploy.pipeline.session import Session
from kdeploy.pipeline.single import Source, import_one, session_of
from kdeploy.recipe.files import absolute_build
from kdeploy.recipe.read import section_of
from kdeploy.store.artifact import Artifact, find_artifact
from kdeploy.store.model_io import reference_of
from kdeploy.store.references import ModelReference
from kdeploy.tasks.contract import is_classification, task_of
from kdeploy.units import format_quantity

MOST_RECIPES = 3
CALL_OVERHEAD_SECONDS = 20e-6
"""Below it a call of ONNX Runtime from Python is mostly the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """One recipe."""

    rule: Rule
    expected: Expected
    promise: float
    """How likely it meets all targets, as far as the ranges say; 0 to 1."""
    why: Sequence[Sentence]
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is answered: facts, what was measured, recipes in order of promise."""

    facts: ModelFacts | None
    measured: Measured
    recipes: Sequence[Advised]
    notes: Sequence[Sentence]
    """What holds whatever is chosen: targets out of reach, what was not measured."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "facts": asdict(self.facts) if self.facts is not None else None,
            "measured": {
                "seconds": self.measured.elapsed_seconds,
                "latency.p50": {n: v.seconds for n, v in self.measured.variants.items()},
                "size": {n: v.size for n, v in self.measured.variants.items()},
                "missing": dict(self.measured.missing),
            },
            "notes": [asdict(note) for note in self.notes],
            "recipes": [
                {
                    "name": one.rule.name,
                    "title": one.rule.title,
                    "file": str(one.file),
                    "promise": one.promise,
                    "expected": asdict(one.expected),
                    "why": [asdict(sentence) for sentence in one.why],
                }
                for one in self.recipes
            ],
        }


def advise(source: Source, targets: Sequence[Gate], out: Path, listener: RunListener) -> Advice:
    """Return advice for a model, and write its recipes and `advice.json` to `out`.

    Args:
        source: The model, with weights and data.
        targets: What the result must hold; none: as fast as it gets at 1 pp less.
        out: The folder.
        listener: Who is told.

    Raises:
        ModelError: the task is not one that is known here.
    """
    artifact = import_one(source, out, listener)
    reference = _data_of(source, artifact)
    session = session_of(out, reference, listener)
    data = session.data
    assert data is not None, "a model that was imported has data"
    num_items, part = len(data.validation), data.validation
    # A look, not a proof: what is made here is judged on these items alone.
    data = replace(data, validation=replace(part, x=part.x[:ITEMS], y=part.y[:ITEMS]))
    session.data = data
    if not is_classification(task_of(data).name):
        raise ModelError(
            f"there is no advice for the task `{task_of(data).name}` yet: its rules and their "
            "evidence are of classifiers",
            hint="write the recipe yourself (docs/guide.md), or try several: `kdeploy bench`",
        )
    model = _reference(source, artifact)
    facts = _facts(artifact, model, data)
    students: dict[str, dict[str, Any]] = {
        name: {"build": absolute_build(model.build, model.folder), "args": dict(args)}
        for name, args in (facts.students if facts is not None else {}).items()
    }
    built = {n: replace(model, args=s["args"]) for n, s in students.items()}
    found = measure(session, artifact, built)
    here = Situation(facts=facts, measured=found, students=students, validation_items=num_items)
    needs = needs_of(targets, found)
    order = ranked(here, needs)
    base = _base(artifact, session, targets)
    recipes = [
        _written(number, rule, expected, promise, here, base, out)
        for number, (rule, expected, promise) in enumerate(order[:MOST_RECIPES], start=1)
    ]
    advice = Advice(facts=facts, measured=found, recipes=recipes, notes=_notes(here, needs, order))
    write_json(out / "advice.json", advice.to_dict())
    return advice


def ranked(here: Situation, needs: Needs) -> list[tuple[Rule, Expected, float]]:
    """Return the rules that apply, the most promising first."""
    found = [(rule, rule.expected(here)) for rule in RULES if rule.applies(here)]
    scored = [(rule, expected, *fit(expected, needs)) for rule, expected in found]
    scored.sort(key=lambda each: (-each[2], -each[3]))
    return [(rule, expected, promise) for rule, expected, promise, _ in scored]


def _notes(
    here: Situation, needs: Needs, ranked: Sequence[tuple[Rule, Expected, float]]
) -> list[Sentence]:
    base = here.measured.variants["float"]
    found = [
        Sentence(
            text=f"the model takes {format_quantity(base.seconds, 's')} an item on {RUNTIME} and "
            f"{format_quantity(base.size, 'B')}",
            source="measured here",
        )
    ]
    found += [
        Sentence(text=f"{name} was not measured: {reason}", source="measured here")
        for name, reason in here.measured.missing.items()
    ]
    fastest = max((e.speed_up[1] for _, e, _ in ranked if not e.is_mean_only), default=1.0)
    if needs.latency is not None and needs.latency > fastest:
        found.append(
            Sentence(
                text=f"a {needs.latency:.1f}x lower latency is out of reach for compression: the "
                f"best recipe may give {fastest:.1f}x; the architecture has to change",
                source="measured here",
            )
        )
    smallest = max((e.smaller[1] for _, e, _ in ranked), default=1.0)
    if needs.size is not None and needs.size > smallest:
        found.append(
            Sentence(
                text=f"a {needs.size:.1f}x smaller file is out of reach for compression: the best "
                f"recipe may give {smallest:.1f}x; the architecture has to change",
                source="measured here",
            )
        )
    if needs.latency is not None and base.seconds / needs.latency < CALL_OVERHEAD_SECONDS:
        found.append(
            Sentence(
                text="a latency below 20 us is mostly the call itself; larger batches or C++ help",
                source="our benchmark",
                where="docs/benchmarking.md",
            )
        )
    if here.facts is not None and here.facts.memory_bound > 0.3:
        found.append(
            Sentence(
                text=f"{here.facts.memory_bound:.0%} of the MACs are in layers that wait for "
                "memory: fewer MACs alone will not make them faster",
                source="measured here",
            )
        )
    return found


def _written(
    number: int,
    rule: Rule,
    expected: Expected,
    promise: float,
    here: Situation,
    base: Mapping[str, Any],
    out: Path,
) -> Advised:
    """Write the recipe of a rule."""
    file = out / f"recipe-{number}-{rule.name}.yaml"
    sections = {**base, **rule.recipe(here)}
    order = ("name", "seed", "data", "task", "teacher", "student", "distill", "compress", "export")
    known = {key: sections[key] for key in order if key in sections}
    known |= {key: value for key, value in sections.items() if key not in known}
    why = rule.why(here)
    head = [f"# {rule.title}.", *(f"# - {sentence}" for sentence in why)]
    plain = json.loads(json.dumps({**known, "name": f"advice-{rule.name}"}, default=str))
    text = yaml.safe_dump(plain, sort_keys=False)
    write_text(file, "\n".join(head) + "\n" + text)
    return Advised(rule=rule, expected=expected, promise=promise, why=why, file=file)


def _base(artifact: Artifact, session: Session, targets: Sequence[Gate]) -> dict[str, Any]:
    """Return what all recipes have in common."""
    assert session.reference is not None, "advice has data"
    teacher: dict[str, Any] = {"build": str(artifact.folder.resolve())}
    return {
        "name": "advice",
        "seed": session.reference.seed,
        "data": section_of(session.reference),
        "teacher": teacher,
        "export": [{"onnx": {"profile": "cpu"}}],
        "bench": {"runtimes": [RUNTIME]},
        **({"gates": [gate.text for gate in targets]} if targets else {}),
        "package": {},
    }


def _data_of(source: Source, artifact: Artifact) -> DataReference | None:
    return source.data or data_of(artifact)


def _reference(source: Source, artifact: Artifact) -> ModelReference:
    if find_artifact(source.reference) is not None and artifact.kind == "torch":
        return reference_of(artifact)
    return ModelReference(build=source.reference, args=source.args)


def _facts(artifact: Artifact, reference: ModelReference, data: Dataset) -> ModelFacts | None:
    if artifact.kind != "torch":
        return None
    stored = np.asarray(data.validation.x[:1])
    example = torch.from_numpy(data.preprocessing.apply(stored))
    return facts_of(model_of_teacher(artifact).eval(), example, reference)
