"""The loop itself: epochs of steps, validation, what is kept, and when it stops with an error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import TrainingDiverged
from kdeploy.fitting import checkpoint
from kdeploy.fitting.average import WeightAverage
from kdeploy.fitting.batches import TrainingBatches, batches_in_order
from kdeploy.fitting.compilation import shall_compile
from kdeploy.fitting.contract import (
    Attentive,
    Batch,
    Best,
    EpochRecord,
    FitContext,
    FitResult,
    Objective,
    Settings,
)
from kdeploy.fitting.device import device_named, fabric_on, precision_on
from kdeploy.fitting.optimization import learning_rate_at, optimizer_of
from kdeploy.fitting.views import View

# On CPU reading a loss waits for nothing, so a divergence is seen before the epoch ends.
STEPS_BETWEEN_CHECKS = 50
VALIDATION_BATCH_SIZE = 256


class Training:
    """One training: what it holds between epochs."""

    def __init__(
        self, objective: Objective, data: Dataset, context: FitContext, settings: Settings
    ) -> None:
        assert isinstance(objective, nn.Module), "an objective is an nn.Module"
        self.data, self.context, self.settings = data, context, settings
        self.device = device_named(context.device)
        self.precision = precision_on(self.device, settings.precision)
        self.fabric = fabric_on(self.device, self.precision)
        self.fingerprint = checkpoint.fingerprint_of(self._facts(objective), objective)
        self.student = objective.student
        self.told = objective if isinstance(objective, Attentive) else None
        self.objective: nn.Module = objective.to(self.device)
        if settings.channels_last:
            _lay_out(self.objective, torch.channels_last)
        self.batches = TrainingBatches(
            data,
            batch_size=settings.batch_size,
            device=self.device,
            channels_last=settings.channels_last,
            views=settings.views,
        )
        self.average = WeightAverage(self.student, decay=settings.ema) if settings.ema else None
        self.history: list[EpochRecord] = []
        self.best = Best()

    @property
    def cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def run(self) -> FitResult:
        """Train all epochs that no checkpoint has, and put the kept weights into the student."""
        epochs = self.settings.epochs
        if epochs:
            self.optimizer = optimizer_of(self.objective, self.settings)
            self.step_module, self.step_optimizer = self.fabric.setup(
                self.objective, self.optimizer
            )
            self._resume()
            items = epochs * len(self.data.train)
            if self.told and shall_compile(self.settings.compile, items=items):
                self.told.compile_parts()
        watcher = self.context.watcher
        watcher.started(self.context.name, epochs, self.batches.steps, len(self.history))
        for epoch in range(len(self.history), epochs):
            self._epoch(epoch)
            self._save()
            watcher.epoch_ended(self.history[-1])
        return self._result()

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        losses, images = self._train(epoch, self._view(epoch))
        trained = time.perf_counter()
        self._check(losses, epoch)
        accuracy = self._validate(epoch)
        if self.told:
            self.told.validated(accuracy)
        record = EpochRecord(
            epoch=epoch + 1,
            epochs=self.settings.epochs,
            loss=sum(losses.values()),
            losses=losses,
            validation_accuracy=accuracy,
            images_per_second=images / (trained - started),
            seconds=time.perf_counter() - started,
            learning_rate=self._learning_rate((epoch + 1) * self.batches.steps - 1),
        )
        self.history.append(record)

    def _view(self, epoch: int) -> View | None:
        """Return what the epoch shows, once the objective knows it; None: nothing countable."""
        view = self.batches.view(
            epoch, seed=self.context.seed, passed=self.context.watcher.prepared
        )
        if view is not None and self.told:
            with self.fabric.autocast():
                self.told.prepare(view)
        return view

    def _train(self, epoch: int, view: View | None) -> tuple[dict[str, float], int]:
        """Return the components' means over the epoch and how many images they were of."""
        torch.manual_seed(_seed_of(self.context.seed, epoch))
        self.objective.train()
        names: list[str] = []
        sums = torch.zeros(0)
        images = 0
        first = epoch * self.batches.steps
        steps = self.settings.epochs * self.batches.steps
        batches = self.batches.epoch([self.context.seed, epoch], view)
        for step, batch in enumerate(batches):
            size = len(batch.labels)
            progress = (first + step) / steps
            components = self._step(first + step, batch._replace(progress=progress))
            values = torch.stack(list(components.values())).detach()
            names, sums = (names, sums) if step else (list(components), torch.zeros_like(values))
            sums.add_(values, alpha=size)
            images += size
            self.context.watcher.stepped(size)
            if self.device.type == "cpu" and step % STEPS_BETWEEN_CHECKS == 0:
                self._check_finite(dict(zip(names, values.tolist(), strict=True)), epoch)
        # The one time in an epoch that the host waits for the device.
        return dict(zip(names, (sums / images).tolist(), strict=True)), images

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        components: dict[str, Tensor] = self.step_module(batch)
        self.fabric.backward(torch.stack(list(components.values())).sum())
        if self.settings.clip_norm:
            self.fabric.clip_gradients(
                self.step_module,
                self.step_optimizer,
                max_norm=self.settings.clip_norm,
                error_if_nonfinite=False,  # would wait for the device; `_check` finds it
            )
        self.step_optimizer.step()
        self.step_optimizer.zero_grad()
        if self.average:
            self.average.update()
        return components

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(step, self.batches.steps, self.settings)

    def _check(self, losses: Mapping[str, float], epoch: int) -> None:
        self._check_finite(losses, epoch)
        for name, value in losses.items():
            if value == 0 and not (self.told and name in self.told.may_be_zero):
                raise TrainingDiverged(
                    f"the loss component `{name}` was exactly zero over all of epoch {epoch + 1} "
                    f"of {self.settings.epochs}: it teaches nothing",
                    hint=f"check the weight and the layers of `{name}`, or leave it out",
                )

    def _check_finite(self, losses: Mapping[str, float], epoch: int) -> None:
        for name, value in losses.items():
            if not isfinite(value):
                raise TrainingDiverged(
                    f"the loss component `{name}` became {value} in epoch {epoch + 1} "
                    f"of {self.settings.epochs}",
                    hint=f"lower `learning_rate` (now {self.settings.learning_rate:g}), "
                    "set `clip_norm: 1.0` or add `warmup_epochs: 1`",
                )

    def _validate(self, epoch: int) -> float:
        """Return the accuracy of what would be kept, and remember it when it is the best."""
        with self.average.applied() if self.average else nullcontext():
            accuracy = self._accuracy()
            # Not `>=`: without a validation part nothing is less, and the last epoch is kept.
            if not accuracy < self.best.accuracy:
                state = _copied(self.student) if self.settings.keep == "best" else {}
                self.best = Best(epoch=epoch + 1, accuracy=accuracy, state=state)
        return accuracy

    @torch.no_grad()
    def _accuracy(self) -> float:
        part = self.data.validation
        self.student.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        labels = torch.split(torch.from_numpy(part.y.copy()).to(self.device), VALIDATION_BATCH_SIZE)
        batches = batches_in_order(
            part.x,
            self.data.preprocessing,
            batch_size=VALIDATION_BATCH_SIZE,
            device=self.device,
        )
        with self.fabric.autocast():
            for x, y in zip(batches, labels, strict=bool(len(part))):
                right += (self.student(x).argmax(1) == y).sum()
        return right.item() / len(part) if len(part) else float("nan")

    def _result(self) -> FitResult:
        if not self.history:
            accuracy = self._accuracy()
            self.best = Best(accuracy=accuracy)
        elif self.settings.keep == "best":
            self.student.load_state_dict(self.best.state)
        elif self.average:
            self.student.load_state_dict(self.average.tensors, strict=False)
        # Contiguous again: files hold tensors in that order.
        _lay_out(self.objective.to("cpu").eval(), torch.contiguous_format)
        last = self.history[-1].validation_accuracy if self.history else self.best.accuracy
        return FitResult(
            history=tuple(self.history),
            best_epoch=self.best.epoch,
            best_accuracy=self.best.accuracy,
            last_accuracy=last,
            kept=self.settings.keep,
        )

    def _save(self) -> None:
        if self.context.work is None:
            return
        best = self.best
        state = {
            "history": [asdict(record) for record in self.history],
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": {"epoch": best.epoch, "accuracy": best.accuracy, "state": best.state},
        }
        checkpoint.save(state, self.context.work, fingerprint=self.fingerprint)

    def _resume(self) -> None:
        if self.context.work is None:
            return
        state = checkpoint.load(self.context.work, fingerprint=self.fingerprint)
        if state is None:
            return
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = Best(**state["best"])

    def _facts(self, objective: Objective) -> dict[str, Any]:
        """Return what, beside the weights, decides the result."""
        return {
            "settings": asdict(self.settings),
            "seed": self.context.seed,
            "objective": getattr(objective, "fingerprint", type(objective).__qualname__),
            "data": self.data.fingerprint,
            "augment": self.data.augment,
            "preprocessing": self.data.preprocessing.to_dict(),
            "device": self.device.type,
            "precision": self.precision,
        }


def _seed_of(seed: int, epoch: int) -> int:
    # As numpy's generators mix their seeds: (0, 1) and (1, 0) have nothing in common.
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    model.to(memory_format=layout)  # type: ignore[call-overload]


def _copied(model: nn.Module) -> dict[str, Any]:
    state = model.state_dict()
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
