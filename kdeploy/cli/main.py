"""Run a command, print what it returns or what went wrong, exit with the code of contract."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from kdeploy.errors import KdeployError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never returns."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = _run(given)
    sys.stdout.flush()
    sys.exit(code)


def _run(given: list[str]) -> int:
    is_json, debug = "--json" in given, "--debug" in given
    try:
        from kdeploy.cli.app import build_app

        # `obj` is what a command finds in its context: what was typed.
        document = build_app(given)(
            args=given, prog_name="kdeploy", standalone_mode=False, obj=given
        )
    except KeyboardInterrupt:
        return _interrupted(is_json)
    except KdeployError as error:
        if debug:
            traceback.print_exc()
        kind = type(error).__name__
        return _fail(error.exit_code, kind, error.message, error.hint, is_json)
    except Exception as error:
        if type(error).__name__ == "Abort":  # what typer made of Ctrl-C before 0.29
            return _interrupted(is_json)
        if debug or not hasattr(error, "format_message"):
            traceback.print_exc()
        return _unexpected(error, is_json)
    if isinstance(document, Result):
        if is_json:
            _print_json(document.document)
        return document.exit_code
    if document == INTERRUPTED:  # and since then
        return _interrupted(is_json)
    return document if isinstance(document, int) else 0


class Result:
    """What a command returns: the JSON document, and the exit code when a gate failed."""

    def __init__(self, document: Any, *, exit_code: int = 0) -> None:
        self.document = document
        self.exit_code = exit_code


def _interrupted(is_json: bool) -> int:
    message = "interrupted; nothing that was finished is lost"
    return _fail(INTERRUPTED, "Interrupted", message, "the same command goes on from here", is_json)


def _unexpected(error: Exception, is_json: bool) -> int:
    if hasattr(error, "format_message"):  # typer's own: a wrong flag or a missing argument
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "kdeploy")
        return _fail(2, "UsageError", error.format_message(), f"{command} --help", is_json)
    return _fail(
        1,
        type(error).__name__,
        f"{error} (this is a bug in kdeploy)",
        "report it with the lines above and the output of `kdeploy doctor`",
        is_json,
    )


def _fail(code: int, kind: str, message: str, hint: str | None, is_json: bool) -> int:
    text = f"{kind}: {message}" + (f"\n\nhint: {hint}" if hint else "")
    print(text, file=sys.stderr)  # noqa: T201 - the one place that prints errors
    if is_json:
        _print_json({"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}})
    return code


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=str))  # noqa: T201 - the answer of --json
