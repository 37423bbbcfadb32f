"""A hundred recipes that nobody meant: each is read, or refused in words."""

import time

import pytest

from kdeploy.errors import KdeployError
from tests.fuzz.mutate_recipes import DOCUMENTS, VALID, mutants, read

LONGEST_MESSAGE = 7000


def test_the_recipe_that_is_changed_is_valid():
    read(VALID.encode())


def test_a_hundred_mutants_are_read_or_refused_in_words():
    refused: dict[str, KdeployError] = {}
    count = 0
    for name, document in mutants(0, 100):
        start, count = time.perf_counter(), count + 1
        try:
            read(document)
        except KdeployError as error:
            refused[name] = error
        assert time.perf_counter() - start < 10, name
    assert 60 <= len(refused) <= count - 3
    for name, error in refused.items():
        assert error.hint, name
        assert len(str(error)) < LONGEST_MESSAGE, name
        assert error.exit_code == 2, name


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"a byte-order mark", "a merge"}))
def test_refuses_what_is_no_recipe(name):
    with pytest.raises(KdeployError):
        read(DOCUMENTS[name])


def test_the_same_seed_gives_the_same_mutants():
    assert list(mutants(3, 80)) == list(mutants(3, 80))
    assert list(mutants(3, 80)) != list(mutants(4, 80))
