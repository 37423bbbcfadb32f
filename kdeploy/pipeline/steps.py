"""One compression step: the technique, the training in or after it, and what has to hold then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.compress.contract import CompressContext, StepTraining, no_training
from kdeploy.compress.formats import check_takes_files
from kdeploy.compress.run import check_ensured, compress
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import DistillResult, distill
from kdeploy.errors import GateFailed, RecipeError
from kdeploy.machine import fingerprint
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.pipeline.building import model_of_teacher, without_folders
from kdeploy.pipeline.held_out import SEEN, SEEN_BEFORE, WORDS, may_have_seen
from kdeploy.pipeline.models import (
    building,
    data_of,
    fit_context,
    further_scores,
    made_model,
    scores_of,
    source_of,
)
from kdeploy.pipeline.onnx_files import is_quantized, made_file
from kdeploy.pipeline.session import Made, Session
from kdeploy.pipeline.stopwatch import Latencies
from kdeploy.pipeline.storing import store_model
from kdeploy.recipe.resolve import Step
from kdeploy.registry import find
from kdeploy.sparsity.zeros import HeldZeros, sparse_weights
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import rebuild, reference_of
from kdeploy.tasks.contract import task_of
from kdeploy.training.fit import accuracy
from kdeploy.units import format_quantity

if TYPE_CHECKING:
    from torch import nn

COMPRESSED = "compressed"


def make_step(session: Session, before: Artifact, step: Step, label: str) -> Artifact:
    """Return the model after one compression step and its recovery.

    Raises:
        GateFailed: accuracy fell by more than the step's `max_drop`; nothing is stored.
    """
    facts = find("compressor", step.technique).facts
    if before.kind == "onnx":
        _check_file_step(before, step)
    recover = {} if step.recover is None else without_folders(step.recover.identity())
    made = session.step(
        kind=before.kind,
        stage="compress",
        technique=step.technique,
        label=label,
        make=_Making(session=session, before=before, step=step, label=label, facts=facts),
        parents=[before],
        parameters={**step.parameters, **({"recover": recover} if recover else {})},
        source=(source_of(session, step.recover) if step.recover else "")
        + (_processor() if facts.get("machine") else ""),
    )
    _check_drop(step, made.manifest["scores"])  # a stored one was made under another bound
    return made


def _processor() -> str:
    machine = fingerprint()
    return " ".join([machine.architecture, machine.cpu, *sorted(machine.instruction_sets)])


def _check_file_step(before: Artifact, step: Step) -> None:
    check_takes_files(step.technique)
    if step.recover is not None:
        raise RecipeError(
            f"compress: {before.label} is an ONNX file, which cannot be trained",
            hint="leave `recover` out, or compress the model that the file was exported from",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """Makes the model of a step."""

    session: Session
    before: Artifact
    step: Step
    label: str
    facts: Mapping[str, Any]

    def __call__(self, work: Path) -> Made:
        step = self.step
        original = model_of_teacher(self.before)
        is_seen = may_have_seen(self.session, self.before)
        trainer = _Trainer(
            session=self.session,
            work=work,
            label=self.label,
            config=step.recover,
            held=sparse_weights(original) if self._sparse_steps() else (),
        )
        model, report = self._compressed(original, work, trainer)
        scores: dict[str, Any] = {
            **_accuracy(self.session, original, "_before"),
            **_accuracy(self.session, model),
        }
        scores |= {"arithmetic": trainer.arithmetic} if trainer.arithmetic else {}
        if step.recover is not None and not trainer.is_done:
            if self.facts.get("sparse"):
                # Anew: the step itself has made zeros that recovery must keep.
                trainer.held = sparse_weights(model)
            result = trainer(model, original, StepTraining(name="recover", is_last=True))
            if "validation_accuracy" in scores:
                scores["validation_accuracy_unrecovered"] = scores["validation_accuracy"]
            scores |= {**scores_of(result.fit), **further_scores(result.accuracies)}
            model = result.model
        report |= {"losses": trainer.messages} if trainer.messages else {}
        for technique in self._sparse_steps():
            check_ensured(find("compressor", technique).load(), model, technique)
        scores |= {SEEN: True, SEEN_BEFORE: True} if is_seen else {}
        self._say(scores, is_seen=is_seen)
        _check_drop(step, scores)
        made = self._made(model, scores)
        report = {**made.facts.get("report", {}), **report}
        return replace(made, facts={**made.facts, "report": report}) if report else made

    def _say(self, scores: Mapping[str, Any], *, is_seen: bool) -> None:
        if not data_of(self.session).validation.is_labelled:
            return
        doubt = f" (no measure: the model before {WORDS})" if is_seen else ""
        self.session.listener.message(
            f"validation accuracy: {scores['validation_accuracy_before']:.2%} before,"
            f" {scores['validation_accuracy']:.2%} after {self.step.technique}{doubt}"
        )

    def _made(self, model: nn.Module, scores: Mapping[str, Any]) -> Made:
        if isinstance(model, OnnxModel):
            return made_file(model, scores, {"is_quantized": is_quantized(model.path)})
        return made_model(self.session, model, reference_of(self.before), scores)

    def _sparse_steps(self) -> list[str]:
        """Return the techniques up to this one whose zeros stay."""
        steps = self.before.manifest["lineage"]
        names = [str(s["technique"]) for s in steps if s["stage"] == "compress"]
        found = [name for name in names if find("compressor", name).facts.get("sparse")]
        return found + [self.step.technique] * bool(self.facts.get("sparse"))

    def _compressed(
        self, original: nn.Module, work: Path, trainer: _Trainer
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model that the technique makes and what it says of it.

        It is kept in the work folder for the training after it: what was measured once would come
        out a little different the next time, and an interrupted recovery could not go on.
        """
        kept = work / COMPRESSED
        if (kept / "facts.json").is_file():
            facts = json.loads((kept / "facts.json").read_text())
            trainer.is_done = facts["is_trained"]
            preprocessing = data_of(self.session).preprocessing
            return rebuild(kept, facts["model"], preprocessing), facts["report"]
        context = CompressContext(
            data=data_of(self.session),
            seed=self.session.seed,
            train=trainer,
            is_recovered=self.step.recover is not None,
            is_validation_seen=may_have_seen(self.session, self.before),
            stopwatch=Latencies(data=self.session.reference, watch=self.session.listener.status),
        )
        model = compress(original, self.step.technique, self.step.parameters, context)
        if self.session.processes.is_first and self.step.recover is not None:
            unfinished = work / f"{COMPRESSED}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            data = data_of(self.session)
            facts = store_model(unfinished, model, reference_of(self.before), data)
            facts = {"model": facts, "report": context.report, "is_trained": trainer.is_done}
            (unfinished / "facts.json").write_text(json.dumps(facts))
            # By a rename: a killed run leaves the folder whole or not at all.
            unfinished.replace(kept)
        return model, dict(context.report)


@dataclass(slots=True, kw_only=True)
class _Trainer:
    """Trains for a step; a `kdeploy.compress.contract.Train`."""

    session: Session
    work: Path
    label: str
    config: DistillConfig | None
    held: Sequence[str]
    """Weights whose zeros stay."""
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    """Of the last training."""
    messages: list[str] = field(default_factory=list)
    """What was chosen for the losses."""
    is_done: bool = False
    """Whether the technique has trained what it made: nothing is left to recover."""

    def __call__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        training: StepTraining,
    ) -> DistillResult:
        """Train `model` in place with the step's settings; its zeros stay where they have to."""
        if self.config is None:
            raise no_training(training.name)
        known = dict(model.named_parameters())
        held = HeldZeros([name for name in self.held if name in known])
        update = {"keep": training.keep} if training.keep else {}
        context = fit_context(
            self.session,
            self.work / training.name.replace(" ", "_"),
            f"{self.label}: {training.name}",
            constraints=(held, *training.constraints)
            if held.names
            else tuple(training.constraints),
        )
        result = distill(
            model,
            teacher,
            data_of(self.session),
            context,
            self.config.model_copy(update=update),
            build=building(self.session),
        )
        self.arithmetic = result.fit.arithmetic.to_dict()
        self.is_done = self.is_done or training.is_last
        for sentence in result.messages:
            if sentence not in self.messages:
                self.messages.append(sentence)
                self.session.listener.message(sentence)
        return result


def _accuracy(session: Session, model: nn.Module, when: str = "") -> dict[str, float]:
    """Return the accuracy on the validation part as a score; nothing where that has no labels."""
    data = data_of(session)
    if not data.validation.is_labelled:
        return {}
    found = accuracy(model, data.validation, data.preprocessing, task=task_of(data))
    return {f"validation_accuracy{when}": found}


def _check_drop(step: Step, scores: Mapping[str, Any]) -> None:
    """Stop a chain that lost too much, before what follows builds on it."""
    if step.max_drop is None:
        return
    before, after = scores["validation_accuracy_before"], scores["validation_accuracy"]
    # Accuracies are counts of items; their differences in float are not.
    if round(before - after, 9) <= step.max_drop:
        return
    unrecovered = scores.get("validation_accuracy_unrecovered")
    trained = f" ({unrecovered:.2%} before recovery)" if unrecovered is not None else ""
    hint = "compress less in this step, recover longer (`recover: {epochs: ...}`), or allow more"
    if scores.get(SEEN_BEFORE):
        hint = (
            f"the model before was given and {WORDS}, so this drop may be none: name a part that "
            f"it has not seen (`validation:` in `data:`); else {hint}"
        )
    raise GateFailed(
        f"`{step.technique}` lost {100 * (before - after):.2f} pp of validation accuracy: "
        f"{before:.2%} before, {after:.2%} after{trained}; `max_drop` allows "
        f"{format_quantity(100 * step.max_drop, '')} pp",
        hint=hint,
    )
