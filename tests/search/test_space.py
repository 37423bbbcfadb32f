import pytest

from kdeploy.errors import InputError, RecipeError, UnknownName
from kdeploy.search.settings import settings_of
from kdeploy.search.space import Choice, Range, Space, parse_space, search_section
from tests.search.conftest import RECIPE


def settings(project, **search):
    given = {**RECIPE, "search": {**RECIPE["search"], **search}}
    return settings_of(given, folder=project, out=project / "out")


def test_a_point_is_put_into_the_recipe(project):
    space = settings(project).space
    point = {"student.args.width": 32, "distill.learning_rate": 0.5, "compress.0": None}
    recipe = space.recipe(point)
    assert recipe.student.args == {"width": 32}
    assert recipe.distill.learning_rate == 0.5
    assert recipe.compress == ()
    assert RECIPE["compress"] == [{"prune_channels": {"ratio": 0.3}}]


def test_parameters_of_a_step_that_is_left_out_do_not_count(project):
    space = settings(
        project,
        space={
            "compress.0": {"choice": [{"prune_channels": {"ratio": 0.3}}, None]},
            "compress.0.prune_channels.ratio": {"range": [0.1, 0.9]},
        },
    ).space
    assert space.recipe({"compress.0": None, "compress.0.prune_channels.ratio": 0.4}).compress == ()
    point = {
        "compress.0.prune_channels.ratio": 0.4,
        "compress.0": {"prune_channels": {"ratio": 0.3}},
    }
    [step] = space.recipe(point).compress
    assert step.parameters["ratio"] == 0.4


def test_steps_in_an_order_that_cannot_be_are_no_recipe(project):
    prune, int8 = {"prune_channels": {"ratio": 0.3}}, {"int8_ptq": {}}
    space = settings(project, space={"compress": {"choice": [[prune, int8], [int8, prune]]}}).space
    assert len(space.recipe({"compress": [prune, int8]}).compress) == 2
    with pytest.raises(InputError, match="cannot come after"):
        space.recipe({"compress": [int8, prune]})


def test_begins_with_the_recipe_as_written(project):
    found = settings(project)
    assert found.space.start() == {
        "student.args.width": 8,
        "distill.learning_rate": 0.1,
        "compress.0": {"prune_channels": {"ratio": 0.3}},
    }


def test_numbers_in_order_stay_in_order():
    assert Choice(key="k", options=(2, 4, 8)).is_ordered
    assert not Choice(key="k", options=("a", "b", "c")).is_ordered
    assert not Choice(key="k", options=(2, None, 8)).is_ordered
    assert not Range(key="k", low=0.1, high=1, step=None).is_integer


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ([4, 8], "neither a choice nor a range"),
        ({"choice": []}, "choice"),
        ({"range": [8, 4]}, "nothing to choose from"),
        ({"range": [0, 4], "log": True}, "nothing to choose from"),
        ({"range": [1, 4], "log": True, "step": 1}, "exclude each other"),
        ({"range": [1, 4], "stepp": 1}, "stepp"),
    ],
)
def test_a_wrong_dimension_is_named(entry, said):
    with pytest.raises(InputError, match=said) as error:
        parse_space({"distill.epochs": entry})
    assert "search.space.distill.epochs" in str(error.value)


def test_a_key_that_no_recipe_has_is_named(project):
    with pytest.raises(RecipeError, match=r"distill\.learning_rat"):
        settings(project, space={"distill.learning_rat": {"choice": [0.1, 0.2]}})


def test_objectives_are_metrics_and_say_how_good_answers_are():
    with pytest.raises(UnknownName, match="acuracy"):
        search_section({"objectives": ["acuracy.top1"]})
    with pytest.raises(RecipeError, match="smallest network would win"):
        search_section({"objectives": ["latency.p50", "size"]})
    with pytest.raises(RecipeError, match="twice"):
        search_section({"objectives": ["accuracy.top1", "accuracy.top1"]})


def test_a_recipe_without_a_space_gets_one_that_is_written_down(project):
    (project / "build.py").write_text(
        "from torch import nn\n"
        "def net(*, width=8, depth=1, num_classes=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 4))\n"
    )
    given = {k: v for k, v in RECIPE.items() if k not in ("search", "compress")}
    given["student"] = {"build": "build.py:net", "args": {"width": 8, "depth": 1, "num_classes": 4}}
    found = settings_of(given, folder=project, out=project / "out")
    keys = [d.key for d in found.space.dimensions]
    assert keys == ["student.args.width", "student.args.depth", "distill.learning_rate", "compress"]
    found.out.mkdir()
    found.keep()
    again = (project / "out" / "recipe.yaml").read_text()
    assert "student.args.width:" in again


def test_of_an_onnx_teacher_alone_only_int8_is_searched(project):
    from kdeploy.search.default_space import default_space

    given = {"data": RECIPE["data"], "teacher": {"build": "onnx:teacher.onnx"}}
    recipe = Space(dimensions=(), given=given, folder=project).recipe({})
    assert default_space(recipe, given) == {"compress": {"choice": [[], [{"int8_ptq": {}}]]}}
