"""What `low_rank` and `tucker` can both be told: the target, the calibration, the measurement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from kdeploy.errors import RecipeError
from kdeploy.low_rank.ranks import RankTarget

_LOG = logging.getLogger(__name__)
ENERGY = 0.99  # when no target is given


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankSettings:
    """The parameters, under the names and with the defaults that both techniques give them."""

    technique: str
    whiten: bool
    """Their defaults differ."""
    energy: float | None = None
    rank_ratio: float | None = None
    vbmf: bool = False
    target: Mapping[Literal["macs", "parameters"], float] | None = None
    round_to: int = 8
    batches: int = 8
    batch_size: int = 32
    runtime: str = "onnxruntime_cpu"
    threads: int | None = None
    latency_batch_size: int = 1
    always: bool = False
    ignore: tuple[str, ...] = ()

    def rank_target(self) -> RankTarget:
        """Return the one target that was given, or the default one.

        Raises:
            RecipeError: more than one was.
        """
        targets: dict[Any, float] = dict(self.target or {})
        if self.energy is not None:
            targets["energy"] = self.energy
        if self.rank_ratio is not None:
            targets["rank_ratio"] = self.rank_ratio
        if self.vbmf:
            targets["vbmf"] = 1.0
        if len(targets) > 1 or self.target == {}:
            raise RecipeError(
                f"{self.technique} takes one target, found "
                f"{', '.join(targets) or 'an empty target'}",
                hint="write `energy: 0.99`, `rank_ratio: 0.5`, `vbmf: true` or "
                "`target: {macs: 0.5}`",
            )
        [(rule, value)] = (targets or {"energy": ENERGY}).items()
        return RankTarget(rule=rule, value=value, round_to=self.round_to)

    def warn_of_those_without_effect(self) -> None:
        """Log what was set and is not looked at."""
        if self.always:
            self._warn("`always`", "runtime", "threads", "latency_batch_size")
        if not self.whiten:
            self._warn("`whiten: false`", "batches", "batch_size")

    def _warn(self, cause: str, *names: str) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                _LOG.warning("%s: `%s` has no effect with %s", self.technique, name, cause)
