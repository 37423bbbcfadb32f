import logging
import multiprocessing
import time

import pytest
import torch

from kdeploy.training import threads
from kdeploy.training.threads import computing_with, free_threads


@pytest.fixture(autouse=True)
def _not_looked(monkeypatch):
    monkeypatch.setattr(threads, "_looked", [])
    monkeypatch.setattr(threads, "_told", [])
    monkeypatch.setattr(threads, "_chosen", [])
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def machine(monkeypatch, *, processors, busy, most):
    monkeypatch.setattr(threads, "_processors", lambda: processors)
    monkeypatch.setattr(threads, "allowed_cores", lambda: processors)
    monkeypatch.setattr(threads, "_busy_by_others", lambda: busy)
    torch.set_num_threads(most)


@pytest.mark.parametrize(
    ("processors", "busy", "most", "expected"),
    [
        (4, 0.0, 4, 4),
        (4, 0.2, 4, 4),
        (4, 1.0, 4, 3),
        (4, 3.7, 4, 1),
        (4, 9.0, 4, 1),
        (8, 5.0, 2, 2),
    ],
)
def test_it_takes_what_others_leave(monkeypatch, caplog, processors, busy, most, expected):
    machine(monkeypatch, processors=processors, busy=busy, most=most)
    with caplog.at_level(logging.WARNING):
        assert free_threads() == expected
    said = [record.message for record in caplog.records]
    assert len(said) == (expected < most)
    assert all(f"computes with {expected} of {most} threads" in line for line in said)


@pytest.mark.parametrize("variable", threads.VARIABLES)
def test_a_number_from_the_environment_holds(monkeypatch, variable):
    machine(monkeypatch, processors=4, busy=4.0, most=3)
    monkeypatch.setenv(variable, "3")
    assert free_threads() == 3


def test_a_quota_of_the_container_is_no_more_than_it_says(monkeypatch):
    machine(monkeypatch, processors=64, busy=0.0, most=8)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 2)
    assert free_threads() == 2


def test_what_was_chosen_for_a_step_holds_for_the_trainings_in_it(monkeypatch):
    machine(monkeypatch, processors=4, busy=0.0, most=4)
    with computing_with(2):
        assert torch.get_num_threads() == 2
        assert free_threads() == 2
        with computing_with(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4


def test_it_sees_another_process_at_work_and_not_itself():
    worker = multiprocessing.get_context("fork").Process(target=_work, daemon=True)
    worker.start()
    try:
        time.sleep(0.2)
        others = threads._busy_by_others()
    finally:
        worker.terminate()
        worker.join()
    assert others > 0.2
    assert threads._busy_by_others() == others  # the look is remembered


def _work():
    while True:
        pass
