"""Candidates on the nodes of a real Ray cluster, of which one is lost; with Ray installed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.search import ray_workers as tested


def test_without_ray_it_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency) as caught, tested.ray_workers("auto"):
        pass
    assert "pip install 'kdeploy[ray]'" in caught.value.hint


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="pip install 'kdeploy[ray]'")


def test_what_is_no_cluster_is_refused(ray):
    with (
        pytest.raises(Unavailable, match="a client is none"),
        tested.ray_workers("ray://127.0.0.1:1"),
    ):
        pass


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return probe.getsockname()[1]


def _node(folder, *arguments):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
    command += ["--object-store-memory", "80000000", *arguments]
    with (folder / f"{len(list(folder.iterdir()))}.log").open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )


@pytest.fixture(scope="module")
def cluster(ray, tmp_path_factory):
    """Yield the address of two nodes of this machine, and the process of the second."""
    folder, address = tmp_path_factory.mktemp("ray"), f"127.0.0.2:{_port()}"
    host, port = address.split(":")
    head = _node(folder, "--head", "--include-dashboard=false", f"--node-ip-address={host}",
                 f"--port={port}")  # fmt: skip
    os.environ["RAY_AUTH_MODE"] = "disabled"
    nodes = [head]
    try:
        _until(lambda: _answers(address))
        nodes.append(_node(folder, f"--address={address}", "--node-ip-address=127.0.0.3"))
        yield address, nodes[1]
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
                node.wait()
        del os.environ["RAY_AUTH_MODE"]


def _answers(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _until(is_so, seconds=90):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "too late"
        time.sleep(0.5)


def answer(request):
    """Stand for a candidate: note that it was begun, and where; the store is a folder of notes."""
    import ray

    node = ray.util.get_node_ip_address()
    (Path(request["store"]) / f"{request['number']}-{node}").touch()
    time.sleep(request.get("seconds", 0))
    if request.get("dies"):
        os._exit(1)
    if request.get("fails"):
        raise ValueError("no such candidate")
    return {"reply": {"number": request["number"], "node": node}}


@pytest.fixture
def asked(ray, cluster, monkeypatch, tmp_path):
    """Yield a function that asks both nodes for candidates."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(tested, "_answer_there", answer)
    with tested.ray_workers(cluster[0]) as workers:
        _until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        yield lambda *requests: workers.ask_all(
            [{"store": str(tmp_path), "number": i, **r} for i, r in enumerate(requests)]
        )


def test_answers_come_in_order_from_both_nodes(asked):
    answers = asked(*[{"seconds": 0.5}] * 6)
    assert [a.reply["number"] for a in answers] == list(range(6))
    assert {a.reply["node"] for a in answers} == {"127.0.0.2", "127.0.0.3"}


def test_what_fails_is_one_answer_and_what_dies_is_asked_once_more(asked, tmp_path):
    fine, failed, died = asked({}, {"fails": True}, {"dies": True})
    assert (fine.reply["number"], fine.error) == (0, "")
    assert "no such candidate" in failed.error
    assert died.error.startswith(tested._LOST)
    assert not died.reply
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"0", "1", "2"}


def test_a_node_that_is_lost_costs_no_candidate(asked, cluster, tmp_path):
    node = cluster[1]
    watcher = subprocess.Popen(
        [sys.executable, "-c", _KILL, str(tmp_path), str(node.pid)], stdout=subprocess.PIPE
    )
    answers = asked(*[{"seconds": 0.3}] * 40)
    assert json.loads(watcher.communicate()[0]) == "killed"
    assert [a.error for a in answers] == [""] * 40
    assert [a.reply["number"] for a in answers] == list(range(40))
    assert answers[-1].reply["node"] == "127.0.0.2"


# Waits until the second node has begun some, then ends all of its processes at once.
_KILL = """
import json, os, pathlib, signal, sys, time
folder, group = pathlib.Path(sys.argv[1]), int(sys.argv[2])
end = time.monotonic() + 60
while len(list(folder.glob("*-127.0.0.3"))) < 3 and time.monotonic() < end:
    time.sleep(0.05)
os.killpg(group, signal.SIGKILL)
print(json.dumps("killed"))
"""
