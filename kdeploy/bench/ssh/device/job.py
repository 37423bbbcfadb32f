"""The process that measures on the device, detached from whoever started it.

Groups that have a result are not measured again. It ends when all are done and nobody waits any
more, or before, when the lease has run out; then it removes its folder.
"""

from __future__ import annotations

import io
import json
import shutil
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdeploy.bench.ssh.device.interleave import measure_group
from kdeploy.bench.ssh.device.workdir import Workdir
from kdeploy.system.machine_turns import measuring

LINGER_SECONDS = 0.5  # whoever follows reads the last lines


class NobodyWaits(Exception):
    """The lease has run out."""


def run(workdir: Workdir) -> None:
    """Measure what `job.json` asks for, alone on this device."""
    with workdir.holding_the_device():
        try:
            _measure_all(workdir)
            workdir.end(None)
        except NobodyWaits:  # nobody reads an end either; what is finished lies in the results
            pass
        except Exception as error:
            traceback.print_exc()
            workdir.end(f"{type(error).__name__}: {error}")
    while workdir.is_wanted():
        time.sleep(LINGER_SECONDS)
    workdir.remove()


def _measure_all(workdir: Workdir) -> None:
    job = json.loads((workdir.folder / "job.json").read_text())
    for number, group in enumerate(job["groups"], start=1):
        if (workdir.results / f"{group['key']}.npz").exists():
            continue
        shutil.rmtree(workdir.folder / "work", ignore_errors=True)
        title = f"{number} of {len(job['groups'])}, {group['name']}"

        def note(text: str, title: str = title) -> None:
            if not workdir.is_wanted():
                raise NobodyWaits
            workdir.note(f"{title}: {text}")

        with measuring(note):
            seen, arrays = measure_group(group, job, workdir.folder, note)
        _keep(workdir, group["key"], seen, arrays)


def _keep(workdir: Workdir, key: str, seen: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, seen=np.array(json.dumps(seen)), **arrays)
    partial = workdir.results / f"{key}.partial"
    partial.write_bytes(whole.getvalue())
    partial.replace(workdir.results / f"{key}.npz")
