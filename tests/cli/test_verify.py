def test_a_changed_byte_in_a_bundle_is_refused(kdeploy, teacher, project):
    bundle = project / "bundle"
    assert kdeploy("package", teacher, "--out", bundle).code == 0
    model = bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    answer = kdeploy("verify", bundle)
    assert answer.code == 2
    assert "model.onnx" in answer.err
    assert "hint:" in answer.err
