"""Mixed precision by an accuracy budget: the layers that hurt most on integers stay float.

Layers are ranked by what each does alone. How many of the first ones have to be float is found by
bisection on the whole validation part, each time with the model as it would be deployed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.errors import DataError, GateFailed
from kdeploy.quantization.fake_quant import FakeQuantized
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.quantization.sensitivity import Sensitivity, sensitivities
from kdeploy.tasks.contract import task_of
from kdeploy.training.fit import accuracy
from kdeploy.units import parse_drop

_LOG = logging.getLogger(__name__)
# Validation items that the sensitivity of each layer is measured on.
NUM_ITEMS = 512
BATCH_SIZE = 64

Quantize = Callable[[Sequence[str]], QuantizedModel]
"""Returns the INT8 model in which the named layers are float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What a recipe says of the layers that are float."""

    ignore: Sequence[str]
    """Patterns of layers that stay float in any case."""
    max_drop: float | None
    """Of validation accuracy, as a fraction; None: none is looked at."""
    wants_table: bool

    @property
    def looks(self) -> bool:
        return self.wants_table or self.max_drop is not None


def precision_of(
    max_drop: str | None, ignore: Sequence[str], sensitivity: bool, context: CompressContext
) -> Precision:
    """Return the parameters of a technique, checked before any work.

    Raises:
        RecipeError: `max_drop` is no drop of accuracy.
        DataError: there is no validation part to look at.
    """
    allowed = None if max_drop is None else parse_drop(max_drop, where="max_drop")
    precision = Precision(ignore=tuple(ignore), max_drop=allowed, wants_table=sensitivity)
    if precision.looks and not len(context.data.validation):
        raise DataError(
            f"`{context.data.name}` has no validation items to see by what INT8 costs",
            hint="set `data.validation_fraction`, or leave `max_drop` and `sensitivity` out",
        )
    return precision


def quantize_within(
    quantize: Quantize,
    fake: FakeQuantized,
    original: nn.Module,
    context: CompressContext,
    precision: Precision,
    *,
    ignored: Sequence[str] = (),
) -> QuantizedModel:
    """Return the INT8 model with as few float layers as its accuracy needs.

    Args:
        quantize: Makes the model.
        fake: Computes what it computes; the sensitivities are measured on it.
        original: The float model that accuracy is compared with.
        context: Validation data, and where the tables go.
        precision: What is allowed.
        ignored: Layers that are float in any case.

    Raises:
        GateFailed: the drop is too large with a single layer on integers.
    """
    context.report["float_layers"] = [{"layer": n, "reason": "`ignore`"} for n in ignored]
    small = quantize(ignored)
    if not precision.looks:
        return small
    fake = fake.to(context.device).eval()
    found = sensitivities(fake, _batches(context), task_of(context.data))
    context.report["sensitivity"] = [_row(s) for s in found]
    if precision.max_drop is None:
        return small
    names = [s.layer for s in found]
    search = LayerSearch(quantize, original, context, precision.max_drop, names, ignored=ignored)
    chosen = search.run(small)
    context.report["mixed_precision"] = search.tried
    context.report["float_layers"] += [
        {**_row(s), "reason": "`max_drop`"} for s in found if s.layer in chosen.float_layers
    ]
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchWords:
    """How a search for layers that are spared is told."""

    step: str = "INT8"
    spared: str = "float"
    """What those layers are."""
    hint: str = "allow more (`max_drop`), or train with rounding: `int8_qat`"


Made = TypeVar("Made", bound=nn.Module)


class LayerSearch(Generic[Made]):
    """Bisects how many of the most sensitive layers are spared; `count` are, afterwards."""

    def __init__(
        self,
        quantize: Callable[[Sequence[str]], Made],
        original: nn.Module,
        context: CompressContext,
        allowed: float,
        ranking: Sequence[str],
        *,
        ignored: Sequence[str] = (),
        words: SearchWords | None = None,
    ) -> None:
        """Measure the original.

        Args:
            quantize: Makes the model in which the named layers are spared.
            original: The float model that accuracy is compared with.
            context: Validation data.
            allowed: Of validation accuracy, as a fraction.
            ranking: The layer that hurts most first.
            ignored: Layers that are spared in any case.
            words: For messages.
        """
        self.quantize, self.context, self.allowed = quantize, context, allowed
        self.ignored, self.ranking = list(ignored), list(ranking)
        self.words, self.count = words or SearchWords(), 0
        self.tried: list[dict[str, Any]] = []
        self.before = self._accuracy(original)

    def run(self, small: Made) -> Made:
        """Return the model with as few spared layers as its accuracy needs.

        Args:
            small: That with none but the ignored ones.

        Raises:
            GateFailed: the drop is too large with a single layer left.
        """
        if self._holds(small, 0):
            return small
        low, high = 0, len(self.ranking) - 1  # one layer has to be left
        self.count = high
        best = self._with(high) if high else small
        if not high or not self._holds(best, high):
            raise self._error()
        while high - low > 1:
            middle = (low + high) // 2
            model = self._with(middle)
            if self._holds(model, middle):
                self.count = high = middle
                best = model
            else:
                low = middle
        told = (high, len(self.ranking), self.words.spared)
        _LOG.info("%d of %d layers are %s", *told)
        return best

    def _with(self, count: int) -> Made:
        return self.quantize([*self.ignored, *self.ranking[:count]])

    def _holds(self, model: nn.Module, count: int) -> bool:
        after = self._accuracy(model)
        self.tried.append({self._key: count, "accuracy": after, "drop": self.before - after})
        # Half an item of ten million: sums of fractions are not exact.
        return self.before - after <= self.allowed + 5e-8

    @property
    def _key(self) -> str:
        return f"{self.words.spared.replace(' ', '_')}_layers"

    def _accuracy(self, model: nn.Module) -> float:
        data, device = self.context.data, self.context.device
        part, known = data.validation, data.preprocessing
        return accuracy(model, part, known, device=device, task=task_of(data))

    def _error(self) -> GateFailed:
        said = "; ".join(
            f"{t[self._key]} {self.words.spared}: {100 * t['drop']:.2f} pp" for t in self.tried
        )
        return GateFailed(
            f"{self.words.step} costs more than {100 * self.allowed:.2f} pp of validation accuracy "
            f"even with one of {len(self.ranking)} layers not {self.words.spared} "
            f"({self.before:.2%} in float; {said})",
            hint=self.words.hint + self._doubt(),
        )

    def _doubt(self) -> str:
        if not self.context.is_validation_seen:
            return ""
        return (
            "; the float model was given and may have been trained on these items: name a part "
            "that it has not seen (`validation:` in `data:`)"
        )


def _batches(context: CompressContext) -> list[Any]:
    return list(context.batches(context.data.validation, BATCH_SIZE, NUM_ITEMS // BATCH_SIZE))


def _row(found: Sensitivity) -> dict[str, Any]:
    return {
        "layer": found.layer,
        "sqnr_decibels": round(found.sqnr_decibels, 2),
        "accuracy_drop": round(found.accuracy_drop, 6),
    }
