"""What an exporter is: a function that writes a model as a file another program runs.

`@exporter(source={"torch"}, suffix=".onnx", runtime="onnxruntime_cpu")` marks
`(model, example, path, *, ...) -> None` in a file named `<target>_from_<source>.py`.

`example` is two rows of input, or a tuple of all inputs. `source` says what the model may be:
"torch", a module; "onnx", an `OnnxModel`. One that only takes files is given the file that the
target `onnx` makes of a torch model, with the parameters that both have. `path` ends in `suffix`
and lies in an empty folder: whatever else is written there (weights, a sidecar) is kept beside it.
`rounds_to_half` says that the file holds float16 numbers, or names the parameter that says so.
`refuses` names what a compressor `makes` and the exporter does not take: a recipe with both is
refused before any work. `portable=False` says that the file fits this machine and these versions
only: elsewhere a stored one is not taken for it.

An exporter `of="language_model"` takes causal language models alone. `file` is the name that its
file must have; it gets a folder of its own then. With `tokenizer=True`
that of the model lies beside `path` already.

The parity gate stands outside, in `run.py`: it runs the file in `runtime`, so that whoever can
export can also prove, with batches from the parameter `min_batch` to `max_batch` where an exporter
has them, and allows what float16 rounds. What a parameter `optimize` did to a file that fails is
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kdeploy.registration import Decorated, register

exporter: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "exporter")
