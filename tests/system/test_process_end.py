import pytest

from kdeploy.system.process_end import named_end


@pytest.mark.parametrize(
    ("code", "name"), [(0, "exit code 0"), (3, "exit code 3"), (-11, "SIGSEGV"), (-40, "signal 40")]
)
def test_an_end_is_named_as_people_know_it(code, name):
    assert named_end(code) == name
