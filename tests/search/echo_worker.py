"""A worker that says what it was asked, and ends where it is told to."""

import json
import os
import signal
import sys
from pathlib import Path


def main():
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as replies:
        for line in sys.stdin:
            request = json.loads(line)
            mark = Path(request["dies_until"]) if "dies_until" in request else None
            if mark is not None and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if "always" in request:
                os.kill(os.getpid(), signal.SIGKILL)
            if "error" in request:
                replies.write(json.dumps({"error": request["error"]}) + "\n")
            else:
                replies.write(json.dumps({"reply": {**request, "pid": os.getpid()}}) + "\n")


if __name__ == "__main__":
    main()
