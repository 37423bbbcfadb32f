"""One device, from the first word to the last: send, let it measure, take home, leave no trace.

A connection that breaks is made again, and the job goes on where it was: it runs by itself on the
device, and what has come home is not measured again.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from kdeploy.bench.ssh.hosts import Host
from kdeploy.bench.ssh.job import DeviceGroup, Job
from kdeploy.bench.ssh.link import Link, LinkInterrupted
from kdeploy.bench.ssh.payload_zip import boot, runner
from kdeploy.bench.ssh.ssh_errors import Died, Unreachable
from kdeploy.errors import Unavailable
from kdeploy.machine import Machine
from kdeploy.units import format_quantity

# Between attempts that reached nobody; a device that starts again needs about a minute.
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
MOST_DEATHS = 2  # of the same job: a third would end as the others did
# What the graph that a session saves, and the samples, may need beside the files.
SPARE_BYTES = 16 * 2**20
Watch = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a device brought home: for each group the file of its result."""

    host: Host
    machine: Machine
    results: Mapping[Path, DeviceGroup]
    lacking: Sequence[tuple[DeviceGroup, str]] = ()
    """Groups whose runtime it has not, with the reason."""


def run_over_ssh(host: Host, job: Job, folder: Path, *, stopping: Event, watch: Watch) -> Answers:
    """Return the results of every group; those that are in `folder` already are kept.

    Raises:
        Unavailable: the device cannot be reached, or lacks something.
        LinkInterrupted: `stopping` was set; the device is clean.
    """
    with Link(host, stopping=stopping) as link:
        try:
            return _SshRun(link, job, folder, watch).with_patience(stopping)
        finally:
            if link.program:
                _clean(link)


def _clean(link: Link) -> None:
    """Leave nothing; where it cannot be reached, the lease that nobody renews does the same."""
    for _ in range(2):  # the first may only find out that the connection is gone
        with contextlib.suppress(Unavailable):
            link.stop()
            return


class _SshRun:
    """The attempts to come to all results."""

    def __init__(self, link: Link, job: Job, folder: Path, watch: Watch) -> None:
        self._link, self._job, self._folder, self._watch = link, job, folder, watch
        self._failures = 0

    def with_patience(self, stopping: Event) -> Answers:
        deaths = 0
        while True:
            try:
                return self._attempt()
            except Unreachable as error:
                deaths += isinstance(error, Died)
                is_over = self._failures >= len(PAUSES_SECONDS) or deaths > MOST_DEATHS
                if is_over or not self._link.program:  # one that was never there
                    raise
                pause = PAUSES_SECONDS[self._failures]
                self._failures += 1
                told = error.message.removeprefix(f"`{self._link.host.name}`: ")
                self._watch(f"{told}; again in {pause:g} s")
                if stopping.wait(pause):
                    raise LinkInterrupted from None

    def _attempt(self) -> Answers:
        link, job = self._link, self._job
        link.boot(job.name, source=boot(), runner=runner())
        found = link.ask("look", *job.runtimes)
        machine, lacking = Machine.from_dict(found["machine"]), found["lacking"]
        able = [group for group in job.groups if group.runtime not in lacking]
        groups = {job.key(g, machine): g.on(machine) for g in able}
        missing = {k: g for k, g in groups.items() if not self._file(k).exists()}
        if missing:
            self._send(job.files_for(list(missing.values())), found)
            link.ask("start", stdin=job.request(missing))
            have = [key for key in groups if key not in missing]
            ended = link.listen("follow", *have, hear=self._hear)
            if ended["failure"] is not None:
                raise Unavailable(f"`{link.host.name}`: {ended['failure']}")
        results = {self._file(key): group for key, group in groups.items()}
        if not all(file.exists() for file in results):  # an earlier start asked for less
            raise Unreachable(f"`{link.host.name}` has not measured everything yet")
        return Answers(
            host=link.host,
            machine=machine,
            results=results,
            lacking=[(g, lacking[g.runtime]) for g in job.groups if g.runtime in lacking],
        )

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.npz"

    def _hear(self, answer: Mapping[str, Any]) -> None:
        self._failures = 0
        if "note" in answer:
            self._watch(answer["note"])
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(answer["result"])
        partial = file.with_suffix(".partial")
        partial.write_bytes(base64.b64decode(answer["npz"]))
        partial.replace(file)

    def _send(self, files: Mapping[str, Path], found: Mapping[str, Any]) -> None:
        name = self._link.host.name
        sizes = found["sizes"]
        needed = sum(p.stat().st_size for n, p in files.items() if n not in sizes)
        free = found["free_bytes"] + sum(v for n, v in sizes.items() if n.endswith(".partial"))
        if needed + SPARE_BYTES > free:
            raise Unavailable(
                f"`{name}`: {format_quantity(free, 'B')} are free there, "
                f"{format_quantity(needed + SPARE_BYTES, 'B')} are needed",
                hint=f"make room, or name another place: `--host {name}:folder=PATH`",
            )
        for file, path in files.items():
            if file not in sizes:
                self._put(file, path, sizes.get(f"{file}.partial", 0))

    def _put(self, name: str, path: Path, offset: int) -> None:
        """Send what is not there yet; a part that turns out wrong is sent again, once."""
        size = path.stat().st_size
        self._watch(f"sending {format_quantity(size - offset, 'B')}")
        for start in (min(offset, size), 0):
            with path.open("rb") as file:
                file.seek(start)
                if self._link.ask("put", name, str(start), stdin=file)["is_whole"]:
                    self._failures = 0
                    return
        raise Unreachable(f"`{self._link.host.name}`: {name} arrives damaged")
