import os

import pytest

from kdeploy.search import workers
from kdeploy.search.workers import local_workers


@pytest.fixture(autouse=True)
def _echo(monkeypatch):
    monkeypatch.setattr(workers, "MODULE", "tests.search.echo_worker")


def test_answers_come_in_the_order_of_the_requests():
    with local_workers(2) as pool:
        answers = pool.ask_all([{"n": n} for n in range(5)])
        assert [a.reply["n"] for a in answers] == list(range(5))
        assert len({a.reply["pid"] for a in answers}) <= 2
        assert pool.ask_alone({"n": 7}).reply["pid"] in {a.reply["pid"] for a in answers}
        pids = {a.reply["pid"] for a in answers}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_what_ended_its_process_is_tried_once_more(tmp_path, count):
    with local_workers(count) as pool:
        requests = [{"n": 0, "dies_until": str(tmp_path / "mark")}, {"n": 1}, {"n": 2}]
        answers = pool.ask_all(requests)
        assert [a.reply.get("n") for a in answers] == [0, 1, 2]
        again = pool.ask_all([{"always": True}, {"n": 1}])
        assert "SIGKILL" in again[0].error
        assert again[1].reply["n"] == 1


def test_an_error_is_an_answer_and_ends_no_process():
    with local_workers(1) as pool:
        first = pool.ask_alone({"n": 0}).reply["pid"]
        assert pool.ask_alone({"error": "no such layer"}).error == "no such layer"
        assert pool.ask_alone({"n": 1}).reply["pid"] == first
