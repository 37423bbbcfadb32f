"""Open a file in a process of its own first: a runtime that dies of it shall not end this one.

ONNX Runtime 1.31's layout optimiser ends the process (SIGSEGV) at some float16 files in which an
attention stands behind a convolution. https://github.com/microsoft/onnxruntime/issues/15494
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kdeploy.errors import ModelError
from kdeploy.system.process_end import named_end

OPEN = (
    "import sys; from pathlib import Path; from kdeploy.runtimes.run import open_runtime;"
    " open_runtime(sys.argv[1], Path(sys.argv[2])).close()"
)


def check_that_it_opens(file: Path, runtime: str, *, name: str) -> None:
    """Raise ModelError if opening a file ends the process; other errors are told by opening it."""
    command = [sys.executable, "-c", OPEN, runtime, str(file)]
    ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if ended.returncode < 0:
        raise ModelError(
            f"{name}: `{runtime}` ended its process ({named_end(ended.returncode)}) when it opened"
            " the file, as it would on any such machine",
            hint="no file was kept; often one kind of operator in float32 is enough, of attention "
            "`keep_float32: [Transpose]`; else export it as `onnx`",
        )
