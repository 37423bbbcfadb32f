import shlex

from kdeploy.recipe.read import load


def test_init_writes_a_project_whose_recipe_is_valid(kdeploy, tmp_path):
    answer = kdeploy("init", tmp_path / "project")
    assert answer.code == 0
    assert load(tmp_path / "project" / "recipe.yaml").name == "my-first-run"
    again = kdeploy("init", tmp_path / "project")
    assert again.code == 2
    assert "build.py" in again.err


def test_a_place_that_refuses_to_be_written_leaves_with_3(kdeploy, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    answer = kdeploy("init", taken)
    assert answer.code == 3
    assert "taken: File exists" in answer.err
    assert "hint:" in answer.err
    assert "Traceback" not in answer.err
    assert "Traceback" in kdeploy("init", taken, "--debug").err


def test_the_command_that_comes_next_can_be_pasted(kdeploy, tmp_path):
    folder = tmp_path / "my new project"
    _, _, line = kdeploy("init", folder).out.partition("next: ")
    words = shlex.split(line)
    assert words[:3] == ["kdeploy", "run", str(folder / "recipe.yaml")]
    assert words[3:] == ["--out", str(folder / "run")]
