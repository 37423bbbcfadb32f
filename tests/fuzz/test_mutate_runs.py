"""Forty damaged runs: every report is drawn, or an error names the file."""

from kdeploy.errors import KdeployError
from tests.fuzz.mutate_runs import mutants, read


def test_the_run_that_is_damaged_is_whole():
    read(b"unread.txt\0")


def test_a_damaged_run_is_drawn_or_refused_with_the_files_name():
    refused: dict[str, KdeployError] = {}
    for name, mutant in mutants(5, 40):
        try:
            read(mutant)
        except KdeployError as error:
            refused[name] = error
    assert 10 <= len(refused) <= 35
    for name, error in refused.items():
        file = name.split()[1]
        assert file.rsplit("/", 1)[-1] in error.message, name
        assert error.hint, name
        assert len(str(error)) < 2000, name
