"""The repository's configuration is one that Triton's own schema reads, and says what the file is.

`MESSAGES` are those of model_config.proto that we write, to parse without Triton's client.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from kdeploy.errors import ModelError
from kdeploy.package.emission import Bundle
from kdeploy.package.emitters.triton import triton
from kdeploy.package.manifest import InputPort, State, read_manifest

FIELD = descriptor_pb2.FieldDescriptorProto
TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
SCALARS = {
    "text": FIELD.TYPE_STRING,
    "int32": FIELD.TYPE_INT32,
    "int64": FIELD.TYPE_INT64,
    "uint64": FIELD.TYPE_UINT64,
}
# Of each message: its fields; a star is repeated, a capital another message or enumeration.
MESSAGES = {
    "Reshape": {"shape": "int64*"},
    "Input": {"name": "text", "data_type": "DataType", "dims": "int64*", "reshape": "Reshape"},
    "Output": {
        **{"name": "text", "data_type": "DataType", "dims": "int64*", "reshape": "Reshape"},
        "label_filename": "text",
    },
    "Group": {"count": "int32", "kind": "Kind"},
    "Batching": {"max_queue_delay_microseconds": "uint64"},
    "Config": {
        **{"name": "text", "backend": "text", "default_model_filename": "text"},
        **{"max_batch_size": "int32", "input": "Input*", "output": "Output*"},
        **{"instance_group": "Group*", "dynamic_batching": "Batching"},
    },
}
ENUMERATIONS = {
    "DataType": [f"TYPE_{name}" for name in TYPES.split()],
    "Kind": [f"KIND_{name}" for name in ("AUTO", "GPU", "CPU", "MODEL")],
}


def own_schema():
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="own", syntax="proto3")
    for name, values in ENUMERATIONS.items():
        added = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            added.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            plain = kind.removesuffix("*")
            label = FIELD.LABEL_REPEATED if kind != plain else FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if plain in SCALARS:
                added.type = SCALARS[plain]
            else:
                added.type = FIELD.TYPE_ENUM if plain in ENUMERATIONS else FIELD.TYPE_MESSAGE
                added.type_name = f".own.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("own.Config"))


def tritons_schema():
    reason = "pip install 'tritonclient[grpc]'"
    grpc = pytest.importorskip("tritonclient.grpc", reason=reason, exc_type=Exception)
    return grpc.model_config_pb2.ModelConfig


@pytest.fixture(params=[own_schema, tritons_schema], ids=["own", "triton"])
def parse(request):
    schema = request.param()
    return lambda path: text_format.Parse(path.read_text(), schema())


def test_says_what_the_file_takes_and_gives(emitted, tiny, parse):
    folder = emitted("triton", {"max_batch_size": 16, "instances": 2, "queue_delay_seconds": 0.002})
    config = parse(folder / "tiny" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 16)
    (taken,), (given,) = config.input, config.output
    assert (taken.name, list(taken.dims), taken.data_type) == ("image", [1, 8, 8], 11)
    assert (given.name, list(given.dims), given.data_type) == ("logits", [3], 11)
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, 2)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert (folder / "tiny" / given.label_filename).read_text() == "circle\nsquare\ntriangle\n"
    model = folder / "tiny" / "1" / config.default_model_filename
    assert model.read_bytes() == tiny.path.read_bytes()


def test_a_file_of_one_item_is_not_batched(make_bundle, onnx_model, tiny, tmp_path, parse):
    import onnx

    from kdeploy.package.emission import emissions

    onnx.save(onnx_model(batch=1), tmp_path / "one.onnx")
    chosen = emissions([{"triton": {}}], "emit")
    bundle = make_bundle(tmp_path / "one", file=tmp_path / "one.onnx", emitted=chosen)
    config = parse(bundle / "deploy/triton/tiny/config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 1, 8, 8]


def written(bundle, folder, **changes):
    manifest = replace(read_manifest(bundle), **changes)
    triton(Bundle(folder=bundle, manifest=manifest), folder)
    return folder / "tiny" / "config.pbtxt"


def test_scalars_open_sizes_and_odd_names_are_said_as_triton_wants_them(bundle, tmp_path, parse):
    ports = (
        InputPort(name='a"\\\n', shape=("batch",), type="int64"),
        InputPort(name="größe", shape=("batch", "length", 2), type="uint8"),
    )
    config = parse(written(bundle, tmp_path, inputs=ports))
    first, second = config.input
    assert (first.name, list(first.dims), list(first.reshape.shape)) == ('a"\\\n', [1], [])
    assert first.HasField("reshape")
    assert (second.name, list(second.dims)) == ("größe", [-1, 2])


def test_a_state_and_types_that_triton_has_not_are_refused(bundle, tmp_path):
    with pytest.raises(ModelError, match="carries a state") as caught:
        written(bundle, tmp_path, state=(State(input="h", output="h1"),))
    assert caught.value.hint
    odd = InputPort(name="x", shape=("batch", 2), type="float8e4m3fn")
    with pytest.raises(ModelError, match="float8e4m3fn"):
        written(bundle, tmp_path, inputs=(odd,))
