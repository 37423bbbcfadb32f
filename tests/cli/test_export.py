def test_a_reference_without_weights_is_refused_with_nothing_written(kdeploy, project):
    answer = kdeploy(
        "export", "onnx", f"{project}/build.py:net", "--data", "digits", "--out", project / "x"
    )
    assert answer.code == 2
    assert "--weights" in answer.err
    assert not (project / "x").exists()
