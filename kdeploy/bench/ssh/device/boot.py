"""The first words on a device: make the job's folder and keep what comes on standard input in it.

Sent as source text and executed, so it needs nothing but a Python 3 and its standard library.
Arguments: the job's name, and the folder for temporary files ("" for the device's own).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

OLDEST = (3, 9)


def boot(job: str, wanted: str) -> dict[str, Any]:
    """Return the answer to the first request."""
    if sys.version_info[:2] < OLDEST:
        return {"error": "python", "told": sys.version.split()[0]}
    root = Path(wanted or tempfile.gettempdir()) / f"kdeploy-device-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a folder that all may write to, somebody else may have made it first.
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            return {"error": "folder", "told": f"{root} belongs to somebody else"}
        folder = root.resolve() / job
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "lease").touch()
        program = folder / "kdeploy.zip"
        partial = folder / "kdeploy.zip.partial"
        partial.write_bytes(sys.stdin.buffer.read())
        partial.replace(program)
    except OSError as error:
        return {"error": "folder", "told": str(error)}
    return {"reply": {"program": str(program)}}


if __name__ == "__main__":
    print("kdeploy:" + json.dumps(boot(*sys.argv[1:3])))
