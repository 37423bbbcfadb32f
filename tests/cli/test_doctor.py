import json


def test_doctor_tells_each_runtime_and_why_it_cannot_run(kdeploy):
    answer = kdeploy("doctor", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert found["machine"]["cores"] >= 1
    assert found["runtimes"]["onnxruntime_cpu"] is None
    assert "tensorrt" in kdeploy("doctor").out


def test_a_library_that_is_not_installed_leaves_with_3_and_its_name(kdeploy, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'left_out.part'", name="left_out.part")

    monkeypatch.setattr("kdeploy.runtimes.run.this_machine", missing)
    answer = kdeploy("doctor")
    assert answer.code == 3
    assert "hint: pip install left_out" in answer.err
    assert "Traceback" not in answer.err
