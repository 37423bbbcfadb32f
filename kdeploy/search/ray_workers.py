"""Workers on the machines of a Ray cluster: candidates are trained there, and timed here.

Plain tasks, one a candidate, each with a processor of its own and, where the cluster has some, a
GPU. Ray keeps nothing that a search needs: `trials.jsonl` and the store do, so that a node that is
lost costs the candidates it was making, which are made once more elsewhere. What must have its
machine for itself is asked of a process on this one: all files are timed on the same machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.search.worker import answer
from kdeploy.search.workers import ATTEMPTS, Answer, Workers, local_workers
from kdeploy.system.interruption import stop_if_asked

POLL_SECONDS = 1.0
"""Between two looks whether Ctrl-C was pressed."""


@contextmanager
def ray_workers(address: str) -> Iterator[Workers]:
    """Join a running cluster; it goes on when the search ends.

    Args:
        address: Of the head, `HOST:PORT` as `ray start --head` prints it, or `auto`: the cluster
            that this machine is a node of.

    Raises:
        MissingDependency: Ray is not installed.
        Unavailable: no cluster answers there, or only by Ray's client.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it sends statistics elsewhere
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingDependency.named(
            "ray", needed_for="kdeploy search --ray", pip="'kdeploy[ray]'"
        ) from None
    if "://" in address:
        raise Unavailable(
            f"--ray {address}: files are timed on a node of the cluster, and a client is none",
            hint="start the search on a node, with `--ray auto` or the head's HOST:PORT",
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(
            f"no Ray cluster answers at {address}: {reason}",
            hint="`ray start --head` on one machine, `ray start --address HOST:PORT` on the others",
        ) from error
    try:
        with local_workers(1) as here:
            yield _OnRay(ray, here)
    finally:
        ray.shutdown()


class _OnRay:
    def __init__(self, ray: Any, here: Workers) -> None:
        self._ray, self._here = ray, here
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # Retries are ours: Ray would repeat, unseen, a candidate that fills the memory of a node.
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_answer_there)

    def ask_all(self, requests: Sequence[Mapping[str, Any]]) -> list[Answer]:
        answers: list[Answer] = [Answer()] * len(requests)
        left = list(range(len(requests)))
        for _ in range(ATTEMPTS):
            asked = {self._task.remote(dict(requests[place])): place for place in left}
            for reference, place in self._in_any_order(asked):
                answers[place] = self._answer_of(reference)
            left = [place for place in left if answers[place].error.startswith(_LOST)]
            if not left:
                break
        return answers

    def ask_alone(self, request: Mapping[str, Any]) -> Answer:
        return self._here.ask_alone(request)

    def _in_any_order(self, asked: Mapping[Any, int]) -> Iterator[tuple[Any, int]]:
        waiting = list(asked)
        try:
            while waiting:
                done, waiting = self._ray.wait(waiting, timeout=POLL_SECONDS)
                stop_if_asked()
                yield from ((reference, asked[reference]) for reference in done)
        finally:
            for reference in waiting:
                self._ray.cancel(reference, force=True)

    def _answer_of(self, reference: Any) -> Answer:
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return Answer(error=f"the node cannot answer: {error.cause!r}")
        except self._ray.exceptions.RayError as error:
            return Answer(error=f"{_LOST}: {type(error).__name__}")
        return Answer(reply=found.get("reply", {}), error=found.get("error", ""))


_LOST = "its process or node was lost"


def _answer_there(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer on a node, which has to see the store of the search."""
    if not Path(request["store"]).is_dir():
        return {"error": f"{os.uname().nodename} does not see {request['store']}: share the folder"}
    return answer(request)
