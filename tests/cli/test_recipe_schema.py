import json


def test_the_schema_is_json(kdeploy):
    schema = json.loads(kdeploy("recipe-schema").out)
    assert {"data", "teacher", "compress"} <= set(schema["properties"])
