"""What a metric is: a function of predictions, decorated with its name, unit and direction.

`(predicted, expected, *, ...) -> float`, both (N,) class indices. The names are those of
`kdeploy.measurement.METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kdeploy.registry import register

metric: Callable[..., Any] = partial(register, "metric")
