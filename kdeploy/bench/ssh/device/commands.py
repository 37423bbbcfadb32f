"""What the one at home may ask: `python3 kdeploy.zip look | put | start | follow | stop`.

Answers are lines that begin with a mark, because a login shell may print lines of its own.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdeploy.bench.ssh.device.workdir import Workdir

MARK = "kdeploy:"
LIBRARIES = ("numpy", "onnxruntime", "openvino", "ai-edge-litert", "executorch")
LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0  # a line at least so often, so that the far end knows we live
PIECE_BYTES = 1 << 20
Json = dict[str, Any]


class Refused(Exception):
    """What cannot be done, with the cause's name that the one at home knows."""

    def __init__(self, cause: str, told: str) -> None:
        super().__init__(told)
        self.cause, self.told = cause, told


def main() -> None:
    """Answer one request, or measure."""
    command, *arguments = sys.argv[1:]
    workdir = Workdir(Path(sys.argv[0]).resolve().parent)
    if command == "run":
        from kdeploy.bench.ssh.device.job import run

        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        run(workdir)
        return
    workdir.renew()
    commands: dict[str, Callable[..., Json]] = {
        "look": look,
        "put": put,
        "start": start,
        "follow": follow,
        "stop": stop,
    }
    try:
        say({"reply": commands[command](workdir, *arguments)})
    except Refused as refused:
        say({"error": refused.cause, "told": refused.told})
    except OSError as error:
        cause = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "folder"
        say({"error": cause, "told": str(error)})


def say(answer: Json) -> None:
    """Print one line for the one at home."""
    print(MARK + json.dumps(answer), flush=True)


def look(workdir: Workdir, *runtimes: str) -> Json:
    """Say what this machine is, which runtimes it lacks, and what is here of this job."""
    if sys.platform != "linux":
        raise Refused("system", sys.platform)
    workdir.sweep()
    try:
        importlib.import_module("numpy")
    except Exception as error:  # a broken build raises whatever it likes
        raise Refused("library", f"numpy {sys.executable} {error}") from None
    from kdeploy.bench.ssh.device.files import OWN, lacks
    from kdeploy.machine import fingerprint

    lacking = {name: reason for name in runtimes if (reason := lacks(name))}
    if lacking and len(lacking) == len(runtimes):
        first = next(iter(lacking))
        raise Refused("library" if first in OWN else "runtime", lacking[first])
    return {
        "machine": fingerprint(libraries=LIBRARIES).to_dict(),
        "lacking": lacking,
        "sizes": {path.name: path.stat().st_size for path in workdir.folder.glob("file-*")},
        "free_bytes": shutil.disk_usage(workdir.folder).free,
    }


def put(workdir: Workdir, name: str, offset: str) -> Json:
    """Add standard input to `file-<sha256>...`, which is whole when its hash is right."""
    target, partial = workdir.folder / name, workdir.folder / f"{name}.partial"
    sender = workdir.folder / "sender"
    sender.write_text(str(os.getpid()))
    with partial.open("ab") as file:
        file.truncate(int(offset))
        for piece in iter(lambda: sys.stdin.buffer.read(PIECE_BYTES), b""):
            # A connection that is only thought dead may still bring what an earlier one sent.
            if sender.read_text() != str(os.getpid()):
                raise Refused("died", "another connection sends this file")
            file.write(piece)
    digest = hashlib.sha256()
    with partial.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE_BYTES), b""):
            digest.update(piece)
    if digest.hexdigest() == name.split("-")[1].split(".")[0]:
        partial.replace(target)
    return {"is_whole": target.exists()}


def start(workdir: Workdir) -> Json:
    """Measure what standard input describes, in a process that stays when this one goes."""
    holder = workdir.holder()
    if holder is not None and holder["job"] != workdir.name:
        raise Refused("busy", f"job {holder['job']}, process {holder['pid']}")
    if holder is not None:
        return {"pid": holder["pid"]}
    (workdir.folder / "job.json").write_bytes(sys.stdin.buffer.read())
    workdir.begin()
    with (workdir.folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, sys.argv[0], "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None and not workdir.is_running() and workdir.ended() is None:
        time.sleep(0.05)
    return {"pid": process.pid}


def follow(workdir: Workdir, *have: str) -> Json:
    """Pass on results and notes until the job is over."""
    known, noted, beat = set(have), "", time.monotonic()
    while True:
        is_running, ended = workdir.is_running(), workdir.ended()
        for key in workdir.finished():
            if key not in known:
                content = (workdir.results / f"{key}.npz").read_bytes()
                say({"result": key, "npz": base64.b64encode(content).decode()})
                known.add(key)
        if ended is not None:
            return ended
        if not is_running:
            raise Refused("died", _last_words(workdir))
        if workdir.last_note() != noted:
            noted = workdir.last_note()
            say({"note": noted})
        if time.monotonic() - beat > HEARTBEAT_SECONDS:
            beat = time.monotonic()
            say({"note": noted})
            workdir.renew()
        time.sleep(LOOK_SECONDS)


def stop(workdir: Workdir) -> Json:
    """End the job and remove its folder."""
    workdir.stop()
    workdir.remove()
    return {}


def _last_words(workdir: Workdir) -> str:
    log = workdir.folder / "log.txt"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    told = [line.strip() for line in lines if line.strip()]
    return told[-1][:300] if told else "without a word"
