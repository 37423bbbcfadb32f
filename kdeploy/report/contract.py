"""What a report format is: a function from a comparison to text.

`@report_format(suffix=".md")` marks `(comparison, *, ...) -> str` in a file named as the format.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kdeploy.registry import register

report_format: Callable[..., Any] = partial(register, "report_format")
