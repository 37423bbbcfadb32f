"""The process of a worker: makes and measures candidates, one request after the other.

`python -m kdeploy.search.worker FD`: as `kdeploy.bench.worker` has it, requests are JSON lines on
standard input, and replies go to the descriptor. A candidate that ends its process ends no other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdeploy.bench.worker import die_with_parent

Request = Mapping[str, Any]


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    die_with_parent()
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w", buffering=1) as replies:
        for line in sys.stdin:
            replies.write(json.dumps(answer(json.loads(line))) + "\n")


def answer(request: Request) -> dict[str, Any]:
    """Return the reply to a request, or the error that it met."""
    from kdeploy.errors import KdeployError
    from kdeploy.untrusted.user_code import blamed, described

    known: dict[str, Callable[[Request], Any]] = {
        "make": _make,
        "measure": _measure,
        "teacher": _teacher,
    }
    try:
        with blamed():
            return {"reply": known[request["do"]](request)}
    except KdeployError as error:
        return {"error": error.message, "kind": type(error).__name__}
    except Exception as error:  # whatever a candidate raises is its reason
        import traceback

        traceback.print_exc()
        return {"error": described(error), "kind": type(error).__name__}


def _make(request: Request) -> dict[str, Any]:
    from kdeploy.search.candidate import make

    recipe = _recipe(request)
    made = make(
        recipe,
        Path(request["store"]),
        request["version"],
        request["share"],
        request.get("student_seed"),
        shared=_shared(request),
    )
    return {**asdict(made), "file": _plain(made.file), "teacher": _plain(made.teacher)}


def _measure(request: Request) -> dict[str, Any]:
    from kdeploy.search.candidate import measure

    files = [_file(entry) for entry in request["files"]]
    found = measure(
        _recipe(request),
        Path(request["store"]),
        files,
        parts=tuple(request["parts"]),
        use_cache=request["use_cache"],
        host=request["host"],
    )
    return {"measured": [asdict(each) for each in found]}


def _teacher(request: Request) -> dict[str, Any]:
    from kdeploy.search.candidate import make_judged_teacher

    return asdict(make_judged_teacher(_recipe(request), Path(request["store"])))


def _recipe(request: Request) -> Any:
    from kdeploy.recipe.resolve import parse

    return parse(request["recipe"], folder=Path(request["folder"]))


def _shared(request: Request) -> Any:
    from kdeploy.recipe.resolve import parse

    document = request.get("shared")
    return None if document is None else parse(document, folder=Path(request["folder"]))


def _plain(file: Any) -> dict[str, Any]:
    return {**asdict(file), "path": str(file.path)}


def _file(entry: Mapping[str, Any]) -> Any:
    from kdeploy.bench.run import ModelUnderTest

    return ModelUnderTest(**{**entry, "path": Path(entry["path"])})


if __name__ == "__main__":
    main()
