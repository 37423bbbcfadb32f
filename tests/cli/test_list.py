import json


def test_lists_techniques_with_parameters_and_their_defaults(kdeploy):
    answer = kdeploy("list", "loss")
    assert "temperature" in answer.out
    assert "attention" in answer.out
    found = json.loads(kdeploy("list", "--json").out)
    assert json.loads(kdeploy("list", "--json", "--markdown").out) == found
    names = {t["name"] for t in found["compressor"]}
    assert {"prune_channels", "int8_ptq"} <= names
