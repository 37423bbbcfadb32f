"""What an exporter is: a function that writes a model as a file another program runs.

`@exporter(source="torch", target="onnx")` marks `(model, example, path, *, ...) -> None` in a file
named `<target>_from_<source>.py`. The parity gate stands outside, in `run.py`: it runs the file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kdeploy.registry import Decorated, register

exporter: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "exporter")
