from kdeploy.search.settings import settings_of
from kdeploy.search.versions import alone, shortened, total_epochs, untrained
from tests.search.conftest import RECIPE


def recipe(project, **changed):
    given = {**RECIPE, "search": RECIPE["search"], **changed}
    return settings_of(given, folder=project, out=project / "out").recipe


COMPRESS = [
    {"prune_channels": {"ratio": 0.3, "recover": {"epochs": 4}}},
    {"int8_qat": {"epochs": 8, "profile": "tensorrt"}},
]


def test_untrained_nothing_is_trained_and_int8_is_calibrated(project):
    found = untrained(recipe(project, compress=COMPRESS))
    assert [s.technique for s in found.compress] == ["prune_channels", "int8_ptq"]
    assert [s.recover for s in found.compress] == [None, None]
    assert found.compress[0].parameters["ratio"] == 0.3
    assert found.compress[1].parameters["profile"] == "tensorrt"


def test_a_short_training_has_its_share_of_all_epochs(project):
    whole = recipe(project, compress=COMPRESS)
    found = shortened(whole, 0.25, items=40)
    assert found.distill.epochs == 4
    assert [s.recover.epochs for s in found.compress] == [1, 2]
    assert found.compress[1].parameters["epochs"] == 2
    assert total_epochs(whole, 40) == 16 + 4 + 8
    assert shortened(whole, 0.01, items=40).distill.epochs == 1


def test_the_whole_is_the_recipe_but_for_what_learns_beside_it(project):
    whole = recipe(project, compress=COMPRESS)
    found = shortened(whole, 1.0, items=40)
    assert found.distill.identity() == alone(whole).distill.identity()
    assert found.compress == whole.compress or [s.recover.identity() for s in found.compress] == [
        s.recover.identity() for s in whole.compress
    ]
