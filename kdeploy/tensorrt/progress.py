"""A builder's progress, told as it goes, and Ctrl-C, which ends it at its next step.

TensorRT calls the monitor from threads of its own and may not be left by an exception. So the
build runs in a thread beside the main one, which waits: there Ctrl-C arrives, sets a flag, and the
monitor answers the next call with "no further".
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import tensorrt

Result = TypeVar("Result")

# Between two messages: a build has thousands of steps, and a log keeps each message.
PAUSE_SECONDS = 1.0

# Who shows progress listens here; see `pipeline.log.noted`.
progress = logging.getLogger("kdeploy.progress")


def cancellable(work: Callable[[threading.Event], Result]) -> Result:
    """Return what `work(cancelled)` returns; it runs in a thread of its own.

    Raises:
        KeyboardInterrupt: Ctrl-C, once `work`, whose event was set, has come to its end.
    """
    cancelled = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        # A pool does not wait for a thread whose very start was interrupted: it runs before.
        pool.submit(cancelled.is_set).result()
        try:
            return pool.submit(work, cancelled).result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


def monitor_of(trt: Any, cancelled: threading.Event) -> tensorrt.IProgressMonitor:
    """Return a monitor that logs the phases under way and stops the build when `cancelled`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.phases: dict[str, tuple[int, int]] = {}
            self.told_at = -math.inf

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase  # phases are told in the order of their beginning
            with self.lock:
                self.phases[phase_name] = (0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                _, steps = self.phases.get(phase_name, (0, step + 1))
                self.phases[phase_name] = (step + 1, steps)
                self.tell()
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                self.phases.pop(phase_name, None)

        def tell(self) -> None:
            now = time.monotonic()
            if now - self.told_at >= PAUSE_SECONDS:
                self.told_at = now
                told = ", ".join(f"{n} {done}/{all_}" for n, (done, all_) in self.phases.items())
                progress.info("TensorRT builds: %s", told)

    return Monitor()
