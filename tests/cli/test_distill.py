import json


def test_distils_from_model_references(kdeploy, teacher, project):
    answer = kdeploy(
        "distill", "--teacher", teacher, "--student", f"{project}/build.py:net",
        "--student-args", "{width: 4}", "--data", "arrays",
        "--set", f"data.train={project}/train.npz", "--set", f"data.test={project}/test.npz",
        "--loss", "{kd: {temperature: 2.0}}", "--epochs", 1, "--out", project / "d", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["student"]


def test_distils_by_a_scheme_with_parameters(kdeploy, teacher, project):
    peer = f"{{build: {project}/build.py:net, args: {{width: 3}}}}"
    answer = kdeploy(
        "distill", "--teacher", teacher, "--student", f"{project}/build.py:net", "--data", "arrays",
        "--set", f"data.train={project}/train.npz", "--set", f"data.test={project}/test.npz",
        "--scheme", f"{{mutual: {{peers: [{peer}]}}}}", "--epochs", 1, "--out", project / "m",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    techniques = [s["technique"] for s in json.loads(answer.out)["stages"]]
    assert techniques[-2:] == ["mutual", "control"]
