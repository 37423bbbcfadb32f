"""What a loss is, what a scheme is.

`@loss(paper=, needs="logits")` marks `(student, teacher, labels, *, ...) -> scalar` on logits
(batch, classes). `needs="features"` is called once per pair of the recipe's `layers`, with two
feature maps; `adapt=True` asks for a trained projection of the student's map to the teacher's
shape before the call. A loss on logits treats the teacher's as constants.

`@scheme(paper=)` marks `(students, teachers, objective, context, *, ...) -> model`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kdeploy.registry import register

loss: Callable[..., Any] = partial(register, "loss")
scheme: Callable[..., Any] = partial(register, "scheme")
