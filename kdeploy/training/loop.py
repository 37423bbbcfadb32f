"""The loop itself: epochs of steps, what is kept, and what a checkpoint holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.tasks.contract import task_of
from kdeploy.training import checkpoint
from kdeploy.training.arithmetic import Arithmetic, Layers, applied
from kdeploy.training.average import WeightAverage
from kdeploy.training.batch_norm import average_over, synchronized
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.compilation import shall_compile
from kdeploy.training.config import TrainingConfig
from kdeploy.training.contract import (
    Batch,
    Best,
    EpochRecord,
    FitContext,
    FitResult,
    NullCallback,
    Objective,
    ObjectiveHooks,
)
from kdeploy.training.defaults import settle_on
from kdeploy.training.device import device_named, fabric_on, precision_on
from kdeploy.training.divergence_checks import check_finite, check_used, check_weights
from kdeploy.training.early_look import Looking
from kdeploy.training.optimization import learning_rate_at, optimizer_of
from kdeploy.training.predict import item_scores
from kdeploy.training.processes import Means, joined, seed_of
from kdeploy.training.rate_range_test import RateFound
from kdeploy.training.rate_trial import sought_rate
from kdeploy.training.safe_arithmetic import modules_asked, passes_to_come, settled
from kdeploy.training.sharding import Sharding, check_shardable
from kdeploy.training.states import copied, lay_out, put_into, put_into_optimizer, whole
from kdeploy.training.threads import computing_with, free_threads
from kdeploy.training.validation import Validated, validated
from kdeploy.training.views import View

# On CPU reading a loss waits for nothing, so a divergence is seen before the epoch ends.
STEPS_BETWEEN_CHECKS = 50


class Training:
    """One training: what it holds between epochs."""

    def __init__(
        self,
        objective: Objective,
        data: Dataset,
        context: FitContext,
        config: TrainingConfig,
        *,
        frozen: str = "",
    ) -> None:
        assert isinstance(objective, nn.Module), "an objective is an nn.Module"
        self.device = device_named(context.device)
        device = self.device.type
        settings, self.is_rate_sought = settle_on(data, config, objective.student, device=device)
        self.data, self.context, self.settings, self.config = data, context, settings, config
        self.rate: RateFound | None = None
        self.processes = joined(context.devices, context.num_nodes)
        is_sharded = settings.fully_shard and settings.trains
        if is_sharded:
            check_shardable(objective, context, self.processes)
        self.callback = context.callback if self.processes.is_first else NullCallback()
        self.precision = precision_on(self.device, settings.precision)
        self.hooks = objective if isinstance(objective, ObjectiveHooks) else None
        # Before `to(device)`: the first weights are hashed on the host, where they still are.
        facts = checkpoint.facts_of(objective, data, context, settings)
        facts |= {"is_rate_sought": self.is_rate_sought, "device": device}
        facts |= {"precision": self.precision, **({"frozen": frozen} if frozen else {})}
        self.fingerprint = checkpoint.fingerprint_of(facts, objective)
        self.student = objective.student
        # What is divided never is on one device as a whole.
        self.objective: nn.Module = objective if is_sharded else objective.to(self.device)
        self.batches = TrainingBatches(
            data,
            batch_size=settings.batch_size,
            device=self.device,
            channels_last=settings.channels_last,
            views=settings.views,
            accumulate=max(settings.accumulate, data.preprocessing.num_parts(settings.batch_size)),
            processes=self.processes,
        )
        self.checkpoint = self._checkpoint()
        self.layers = Layers(objective, modules_asked(objective))
        self.arithmetic = self._arithmetic()
        self.fabric = fabric_on(
            self.device,
            self.arithmetic.precision,
            devices=context.devices,
            num_nodes=context.num_nodes,
            may_skip_parameters=self.hooks is None or bool(self.hooks.may_be_zero),
            is_sharded=is_sharded,
        )
        is_synchronized = self.processes.count > 1 and self.device.type == "cuda"
        self.desynchronize = synchronized(self.objective) if is_synchronized else None
        shard = partial(Sharding, data=data, device=self.device, processes=self.processes)
        self.sharding = shard(self.objective) if is_sharded else None
        self.objective.to(self.device)  # buffers, and the teacher
        self.average = WeightAverage(self.student, decay=settings.ema) if settings.ema else None
        self.history: list[EpochRecord] = []
        self.best = Best()
        score = partial(item_scores, self.student, data, str(self.device))
        self.look = Looking.of(context.look, self.student, steps=self.steps_in_all, score=score)

    @property
    def cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def run(self) -> FitResult:
        """Train all epochs that no checkpoint has, and put the kept weights into the student."""
        with (
            computing_with(self.arithmetic.threads),
            applied(self.arithmetic, self.layers, self.device.type),
        ):
            return self._run()

    def _run(self) -> FitResult:
        epochs = self.settings.epochs
        if epochs:
            self.optimizer = optimizer_of(self.objective, self.settings)
            self.step_module, self.step_optimizer = self.fabric.setup(
                self.objective, self.optimizer
            )
            # After `setup`: the optimizer's state must land on the device that it steps on.
            self._resume()
            for constraint in self.context.constraints:
                constraint.begin(self.student)
            if self.hooks and self._shall_compile(epochs * len(self.data.train)):
                self.hooks.compile_parts()
        self.callback.started(self.context.name, epochs, self.batches.steps, len(self.history))
        if epochs and self.is_rate_sought and not self.history:
            torch.manual_seed(seed_of(self.context.seed, 0, self.processes.rank))
            self._take(sought_rate(self, self._view(0)))
        for epoch in range(len(self.history), epochs):
            self._epoch(epoch)
            self._save()
            self.callback.epoch_ended(self.history[-1])
            if self.look and self.look.is_over:
                break
        return self._result()

    def _arithmetic(self) -> Arithmetic:
        """Return how to compute: as before an interruption, and only what is safe here."""
        chosen = Arithmetic(
            threads=free_threads() if self.device.type == "cpu" else torch.get_num_threads(),
            precision=self.precision,
            channels_last=self.settings.channels_last,
        )
        if self.checkpoint is not None:
            chosen = Arithmetic.from_dict(self.checkpoint.get("arithmetic", chosen.to_dict()))
        if not self.settings.epochs:
            self._lay_out(chosen)
        elif self.processes.is_first:
            steps = partial(passes_to_come, self.objective, self.batches, seed=self.context.seed)
            chosen = settled(chosen, self.layers, steps, lay_out=self._lay_out, device=self.device)
        # All compute alike: a process with another layout or precision would average unlike
        # gradients.
        chosen = self.processes.from_first(chosen)
        self._lay_out(chosen)
        return chosen

    def _lay_out(self, arithmetic: Arithmetic) -> None:
        is_last = arithmetic.channels_last
        self.batches.lay_out(channels_last=is_last)
        if is_last or self.settings.channels_last:
            lay_out(self.objective, torch.channels_last if is_last else torch.contiguous_format)

    def _shall_compile(self, items: int) -> bool:
        own = self.arithmetic.float32_layers + self.arithmetic.contiguous_layers
        # What single layers do in their own way is not in a compiled model.
        is_kept = own or self.settings.checkpoint_activations or self.sharding
        return not is_kept and shall_compile(self.settings.compile, items=items)

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        losses, images = self._train(epoch, self._view(epoch))
        trained = time.perf_counter()
        check_finite(losses, epoch, self.settings)
        check_weights(self.objective, epoch, self.settings, self.processes)
        may_be_zero = self.hooks.may_be_zero if self.hooks else ()
        check_used(losses, epoch, self.settings, may_be_zero=may_be_zero)
        accuracy = self._validate(epoch)
        if self.hooks:
            self.hooks.validated(accuracy)
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
        view = self.batches.view(epoch, seed=self.context.seed, passed=self.callback.prepared)
        if view is not None and self.hooks:
            # What the first had a teacher say, the others find in its files.
            with self.processes.in_turn(), self.fabric.autocast():
                self.hooks.prepare(view)
        return view

    def _train(self, epoch: int, view: View | None) -> tuple[dict[str, float], int]:
        """Return the components' means over the epoch and how many images they were of."""
        # What is drawn anew for a batch differs between processes; the first draws as one alone.
        torch.manual_seed(seed_of(self.context.seed, epoch, self.processes.rank))
        self.objective.train()
        means, images = Means(), 0
        with closing(self.batches.epoch([self.context.seed, epoch], view)) as batches:
            for step, batch in enumerate(batches):
                at = epoch * self.batches.steps + step
                batch = batch._replace(progress=at / self.steps_in_all, step=at)
                size = self.batches.size(step)
                for part, components in self._step(at, self.batches.cut(batch, step)):
                    means.add(components, weight=part * size)
                images += size
                self.callback.stepped(size)
                if self.look and self.look.is_over:
                    break
                # Not where the other processes would wait in vain for one that stops.
                is_cheap = self.device.type == "cpu" and self.processes.count == 1
                if is_cheap and step % STEPS_BETWEEN_CHECKS == 0:
                    check_finite(means.newest(), epoch, self.settings)
        self._share_statistics()
        # The one time in an epoch that the host waits for the device.
        return means.over(images, self.processes), images

    def _step(self, step: int, parts: Sequence[Batch]) -> list[tuple[float, dict[str, Tensor]]]:
        """Take an optimizer step; return the components of each part with its share of the step."""
        done = self.descend(parts, self._learning_rate(step))
        for constraint in self.context.constraints:
            constraint.after_step((step + 1) / self.steps_in_all, self._learning_rate(step))
        if self.average:
            self.average.update()
        if self.look:
            self.look.after_step(step)
        return done

    def descend(
        self, parts: Sequence[Batch], learning_rate: float
    ) -> list[tuple[float, dict[str, Tensor]]]:
        """Let the optimizer make one step at a rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        done = []
        for part in parts:
            is_last = part is parts[-1]
            # Divided gradients are averaged with each part: they would be whole until the last one.
            is_apart = not (is_last or self.sharding)
            with self.fabric.no_backward_sync(self.step_module, enabled=is_apart):
                components: dict[str, Tensor] = self.step_module(part)
                loss = torch.stack(list(components.values())).sum()
                # Times their count, because the processes' gradients are averaged, not added.
                self.fabric.backward(loss * (part.share * self.processes.count))
            done.append((part.share, components))
        if self.settings.clip_norm:
            self.fabric.clip_gradients(
                self.step_module,
                self.step_optimizer,
                max_norm=self.settings.clip_norm,
                error_if_nonfinite=False,  # would wait for the device; the epoch's check finds it
            )
        self.step_optimizer.step()
        self.step_optimizer.zero_grad()
        return done

    def _take(self, rate: RateFound) -> None:
        self.rate = rate
        self.settings = self.settings.model_copy(update={"learning_rate": rate.rate})

    @property
    def steps_in_all(self) -> int:
        return self.settings.epochs * self.batches.steps

    def _share_statistics(self) -> None:
        """Let all processes have the same buffers: what was trained is one model."""
        average_over(self.processes, self.objective.buffers())
        if self.average:
            names = (name for name, _ in self.student.named_buffers())
            average_over(self.processes, (self.average.tensors[n] for n in names))

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(step, self.batches.steps, self.settings)

    def _validate(self, epoch: int) -> float:
        """Return the accuracy of what would be kept, and remember it when it is the best."""
        with self.average.applied() if self.average else nullcontext():
            found = self._validated()
            # Not `>=`: without a validation part nothing is less, and the last epoch is kept.
            if not found.worth < self.best.worth:
                state = copied(self.student) if self.settings.keep == "best" else {}
                self.best = Best(epoch=epoch + 1, **found._asdict(), state=state)
        return found.accuracy

    def _validated(self) -> Validated:
        with self.fabric.autocast():
            return validated(
                self.student,
                self.data.validation,
                self.data.preprocessing,
                device=self.device,
                processes=self.processes,
                task=task_of(self.data),
                is_sharded=self.sharding is not None,
            )

    def _result(self) -> FitResult:
        if not self.history:
            self.best = Best(**self._validated()._asdict())
        elif self.settings.keep == "best":
            put_into(self.student, self.best.state)
        elif self.average:
            # Not strict: what is no tensor (extra state of a module) has no average.
            put_into(self.student, self.average.tensors, strict=False)
        if self.sharding:
            self.sharding.undo()
        if self.desynchronize:
            self.desynchronize()
        # Contiguous again: files hold tensors in that order.
        lay_out(self.objective.to("cpu").eval(), torch.contiguous_format)
        last = self.history[-1].validation_accuracy if self.history else self.best.accuracy
        return FitResult(
            history=tuple(self.history),
            best_epoch=self.best.epoch,
            best_accuracy=self.best.accuracy,
            last_accuracy=last,
            kept=self.settings.keep,
            arithmetic=self.arithmetic,
            settings=self.settings,
            chosen=self.settings.chosen(self.config),
            rate=self.rate,
            seen=self.look.seen if self.look else None,
        )

    def _save(self) -> None:
        is_first = self.processes.is_first
        if self.context.work is None or not (is_first or self.sharding):
            return
        state = {
            "history": [asdict(record) for record in self.history],
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": {field.name: getattr(self.best, field.name) for field in fields(Best)},
            "arithmetic": self.arithmetic.to_dict(),
            "rate": self.rate.to_dict() if self.rate else None,
            "look": self.look.state_dict() if self.look else None,
        }
        if self.sharding:
            state = whole(state, is_kept=is_first)
        if is_first:
            checkpoint.save(state, self.context.work, fingerprint=self.fingerprint)

    def _checkpoint(self) -> dict[str, Any] | None:
        if self.context.work is None or not self.settings.epochs:
            return None
        self.processes.from_first(True)  # who has written its last checkpoint by then
        return checkpoint.load(
            self.context.work, fingerprint=self.fingerprint, processes=self.processes
        )

    def _resume(self) -> None:
        state, self.checkpoint = self.checkpoint, None
        if state is None:
            return
        put_into(self.objective, state["objective"])
        put_into_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = Best(**state["best"])
        if state["rate"]:
            self._take(RateFound(**state["rate"]))
        if self.look:
            self.look.load_state_dict(state["look"])
