import json
import subprocess
import sys

import pytest

from kdeploy import __version__
from kdeploy.recipe.read import load

COMMANDS = (
    *("run", "distill", "compress", "export", "bench", "report", "package", "verify"),
    *("list", "show", "doctor", "init", "recipe-schema"),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help_that_says_what_it_does(kdeploy, command):
    answer = kdeploy(*command.split(), "--help")
    assert answer.code == 0
    assert "Usage: kdeploy" in answer.out
    assert len(answer.out.split()) > 15


def test_help_imports_neither_torch_nor_a_runtime():
    probe = (
        "import sys; sys.argv = ['kdeploy', *ARGUMENTS]\n"
        "from kdeploy.cli.main import _run\n"
        "code = _run(sys.argv[1:])\n"
        "heavy = {'torch', 'tensorrt', 'onnxruntime', 'onnx', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy or code else 0)"
    )
    for arguments in (["--help"], ["compress", "prune_channels", "--help"], ["run", "--help"]):
        code = probe.replace("ARGUMENTS", repr(arguments))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_prints_its_version(kdeploy):
    assert kdeploy("--version").out.strip() == f"kdeploy {__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command"),
        (["run"], "argument"),
        (["run", "recipe.yaml", "--nothing"], "No such option"),
        (["run", "there-is-none.yaml"], "there-is-none.yaml"),
        (["list", "los"], "loss"),
        (["show", "nothing"], "nothing"),
        (["compress", "prune_chanels"], "No such command"),
        (["bench", "there-is-none.onnx"], "there-is-none.onnx"),
        (["bench", "x.onnx", "--gate", "fast"], "not a gate"),
        (["bench", "x.onnx", "--scenario", "server"], "--latency-limit"),
        (["bench", "x.onnx", "--latency-limit", "15ms"], "--scenario server"),
        (["bench", "x.onnx", "--effort", "much"], "standard"),
        (["bench", "x.onnx", "--size", "wide"], "not a size"),
        (["bench", "x.onnx", "--batch-size", "0"], "bench.batch_sizes.0"),
        (["bench", "x.onnx", "--threads", "0"], "bench.threads.0"),
        (["bench", __file__], "not an ONNX file"),
        (["compress"], "Missing command"),
        (["verify", "there-is-none"], "there-is-none"),
        (["report", "there-is-none"], "there-is-none"),
        (["run", "r.yaml", "--until", "distil"], "distill"),
    ],
)
def test_wrong_input_leaves_with_2_a_message_and_a_hint(kdeploy, arguments, message):
    answer = kdeploy(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "hint:" in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_a_place_that_refuses_to_be_written_leaves_with_3(kdeploy, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    answer = kdeploy("init", taken)
    assert answer.code == 3
    assert "taken: File exists" in answer.err
    assert "hint:" in answer.err
    assert "Traceback" not in answer.err
    assert "Traceback" in kdeploy("init", taken, "--debug").err


def test_a_library_that_is_not_installed_leaves_with_3_and_its_name(kdeploy, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'left_out.part'", name="left_out.part")

    monkeypatch.setattr("kdeploy.machine.fingerprint", missing)
    answer = kdeploy("doctor")
    assert answer.code == 3
    assert "hint: pip install left_out" in answer.err
    assert "Traceback" not in answer.err


def test_an_error_is_a_document_too_when_json_is_asked_for(kdeploy):
    answer = kdeploy("show", "nothing", "--json")
    assert answer.code == 2
    error = json.loads(answer.out)["error"]
    assert error["kind"] == "FileMissing"
    assert error["hint"]


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m kdeploy list --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr.count("Traceback")) == ("{0\n", 0)


def test_debug_shows_the_traceback(kdeploy):
    assert "Traceback" in kdeploy("show", "nothing", "--debug").err


def test_lists_techniques_with_parameters_and_their_defaults(kdeploy):
    answer = kdeploy("list", "loss")
    assert "temperature" in answer.out
    assert "attention" in answer.out
    found = json.loads(kdeploy("list", "--json").out)
    assert json.loads(kdeploy("list", "--json", "--markdown").out) == found
    names = {t["name"] for t in found["compressor"]}
    assert {"prune_channels", "int8_ptq"} <= names


def test_doctor_tells_each_runtime_and_why_it_cannot_run(kdeploy):
    answer = kdeploy("doctor", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert found["machine"]["cores"] >= 1
    assert found["runtimes"]["onnxruntime_cpu"] is None
    assert "tensorrt" in kdeploy("doctor").out


def test_init_writes_a_project_whose_recipe_is_valid(kdeploy, tmp_path):
    answer = kdeploy("init", tmp_path / "project")
    assert answer.code == 0
    assert load(tmp_path / "project" / "recipe.yaml").name == "my-first-run"
    again = kdeploy("init", tmp_path / "project")
    assert again.code == 2
    assert "build.py" in again.err


def test_the_schema_is_json(kdeploy):
    schema = json.loads(kdeploy("recipe-schema").out)
    assert {"data", "teacher", "compress"} <= set(schema["properties"])
