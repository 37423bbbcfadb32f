"""Make the next few of a series in the background, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
DEPTH = 2  # one is being copied, one is ready


def ahead(make: Callable[[In], Out], given: Iterable[In]) -> Iterator[Out]:
    """Yield `make(value)` of each value, up to `DEPTH` of them made before they are asked for.

    One thread makes them, so it must not draw random numbers: theirs would mix with the caller's.
    It has ended when the iterator is closed; what fails in it is raised where it is asked for.
    """
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="kdeploy-ahead") as thread:
        try:
            for value in given:
                waiting.append(thread.submit(make, value))
                if len(waiting) > DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)
