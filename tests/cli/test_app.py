import json
import subprocess
import sys

import pytest

from kdeploy import __version__

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
