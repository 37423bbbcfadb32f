"""Run a command, print what it returns or what went wrong, exit with the code of contract."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from kdeploy.cli.bug_report import as_document, write_bug_report
from kdeploy.cli.result import Result
from kdeploy.errors import InputError, KdeployError, MissingDependency, Unavailable, shown
from kdeploy.system.interruption import BASE_CODE, asked_by, heeded, leave, stop_if_asked
from kdeploy.untrusted.user_code import described, is_memory, users_error

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
INTERNAL = 70
"""EX_SOFTWARE of sysexits.h: the fault is kdeploy's own."""
REFUSED_BY_DISK = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
    | {errno.ENOSPC, errno.EDQUOT}
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; never returns."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if logging.lastResort is not None:  # warnings quote what others wrote
        logging.lastResort.setFormatter(_Shown())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a sign that the terminal lacks is no reason to end
            stream.reconfigure(errors="backslashreplace")
    code = _run(given)
    sys.stdout.flush()
    if arguments is None and code > BASE_CODE:
        leave(code)
    sys.exit(code)


def _run(given: list[str]) -> int:
    is_json = "--json" in given
    with heeded():
        try:
            code = _command(given, is_json)
        except KeyboardInterrupt:
            return _interrupted(is_json)
        # What was made of a signal on its way here: another error, or nothing at all.
        return code if asked_by() is None else _interrupted(is_json)


def _command(given: list[str], is_json: bool) -> int:
    debug = "--debug" in given
    try:
        from kdeploy.cli.app import build_app
        from kdeploy.cli.given import check_arguments

        check_arguments(given)
        # `obj` is what a command finds in its context: what was typed.
        # A build.py may print, when it is read or in each forward: JSON has stdout for itself.
        elsewhere = sys.stderr if is_json and "--help" not in given else sys.stdout
        with redirect_stdout(elsewhere):
            document = build_app(given)(
                args=given, prog_name="kdeploy", standalone_mode=False, obj=given
            )
    except (Exception, SystemExit) as error:  # a build.py may call `sys.exit`
        stop_if_asked()
        if (known := _known(error)) is not None:
            if debug:
                traceback.print_exc()
            kind = type(known).__name__
            return _fail(known.exit_code, kind, known.message, known.hint, is_json)
        if type(error).__name__ == "Abort":  # what typer made of Ctrl-C before 0.29
            raise KeyboardInterrupt from None
        if isinstance(error, SystemExit):
            raise
        return _unexpected(error, given, is_json)
    if document == INTERRUPTED:  # and since then
        raise KeyboardInterrupt
    stop_if_asked()
    if isinstance(document, Result):
        if is_json:
            _print_json(document.document)
        return document.exit_code
    return document if isinstance(document, int) else 0


class _Shown(logging.Formatter):
    """Messages as errors are shown: no escape sequences, nothing endless."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _known(error: BaseException) -> KdeployError | None:
    """Return one of our errors: as raised, or for what a user's code, or this machine, did."""
    if isinstance(error, KdeployError):
        return error
    library = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and library not in ("", "kdeploy"):
        return MissingDependency.named(library, needed_for="this command")
    if (users := users_error(error)) is not None:
        return users
    if is_memory(error):
        hint = "take smaller batches (`batch_size`), or a smaller model"
        return Unavailable(f"there is not enough memory: {described(error)}", hint=hint)
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        hint = "name another file or folder"
        return InputError(f"`{error.filename}`: {error.strerror}", hint=hint)
    if isinstance(error, OSError) and error.errno in REFUSED_BY_DISK:
        place = f"{error.filename}: " if error.filename else ""
        hint = "check the permissions and the room there, or name another place"
        return Unavailable(f"{place}{error.strerror}", hint=hint)
    return None


def _interrupted(is_json: bool) -> int:
    number = asked_by() or signal.SIGINT
    how = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    message = f"interrupted{how}; nothing that was finished is lost"
    hint = "the same command goes on from here"
    return _fail(BASE_CODE + number, "Interrupted", message, hint, is_json)


def _unexpected(error: Exception, given: list[str], is_json: bool) -> int:
    if hasattr(error, "format_message"):  # typer's own: a wrong flag or a missing argument
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "kdeploy")
        message = error.format_message() or "no command was named"
        return _fail(2, "UsageError", message, f"{command} --help", is_json)
    file = write_bug_report(error, given)
    if file is None or "--debug" in given:
        traceback.print_exc()
    message = f"{described(error)}: this is a fault of kdeploy, not of what you gave it"
    what = f"{file}, which has command, versions and traceback" if file else "the lines above"
    return _fail(INTERNAL, "InternalError", message, f"report it with {what}", is_json)


def _fail(code: int, kind: str, message: str, hint: str | None, is_json: bool) -> int:
    message, hint = shown(message), shown(hint) if hint else None
    text = f"{kind}: {message}" + (f"\n\nhint: {hint}" if hint else "")
    print(text, file=sys.stderr)  # noqa: T201 - the one place that prints errors
    if is_json:
        _print_json(as_document(kind, message, hint, code))
    return code


def _print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, default=str)
    try:
        print(text, flush=True)  # noqa: T201 - the answer of --json
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more on leaving
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
