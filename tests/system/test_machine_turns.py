import fcntl
import threading

import pytest

from kdeploy.system import machine_turns


@pytest.fixture
def may(monkeypatch, tmp_path):
    """Return a function that says whether another process could take a lock now."""
    monkeypatch.setenv(machine_turns.FOLDER, str(tmp_path))

    def ask(name, how):
        [file] = tmp_path.glob(f"kdeploy-{name}-*.lock")
        with file.open() as other:
            try:
                fcntl.flock(other, how | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    return ask


def test_nobody_trains_beside_a_timing(may):
    with machine_turns.timing():
        assert not may("turns", fcntl.LOCK_SH)
    with machine_turns.training():
        assert may("turns", fcntl.LOCK_SH)
        assert not may("turns", fcntl.LOCK_EX)
    assert may("turns", fcntl.LOCK_EX)


def test_no_two_measure_at_once_and_the_second_says_that_it_waits(may):
    heard, order, has_begun = [], [], threading.Event()

    def second():
        with machine_turns.measuring(lambda text: (heard.append(text), has_begun.set())):
            order.append("second")

    with machine_turns.measuring(heard.append):
        assert not heard
        other = threading.Thread(target=second)
        other.start()
        assert has_begun.wait(20)
        order.append("first")
    other.join(20)
    assert order == ["first", "second"]
    assert heard == [machine_turns.WAITS]


def test_a_search_that_has_the_machine_may_measure(may):
    with machine_turns.timing(), machine_turns.measuring(lambda text: pytest.fail(text)):
        assert not may("measuring", fcntl.LOCK_SH)
