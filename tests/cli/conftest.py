from dataclasses import dataclass

import pytest

from kdeploy.cli import main


@dataclass
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def kdeploy(capsys):
    """Return a function that runs a command in this process."""

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(left.value.code, out, err)

    return run
