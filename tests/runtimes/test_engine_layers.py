from __future__ import annotations

import json

from kdeploy.runtimes.engine_layers import proof_of

TACTIC = "sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32"
TEN = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "x'", "Format/Datatype": "Thirty-two wide Int8 format"}],
        },
        {
            "Name": "conv1 + relu",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "x'", "Format/Datatype": "Thirty-two wide Int8 format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
            "TacticName": TACTIC,
        },
        {
            "Name": "fc",
            "LayerType": "gemm",
            "Inputs": [
                {"Name": "y", "Format/Datatype": "Row major linear FP16 format"},
                {"Name": "w", "Format/Datatype": "Int8 weights"},
            ],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32"}],
            "TacticName": "sm90_xmma_gemm_f16f16",
        },
    ],
    "Bindings": ["x", "z"],
}


def eleven():
    """Return the same engine as TensorRT 11 describes it."""

    def split(tensor):
        kind = next(k for k in ("Int8", "FP16", "FP32") if k in tensor["Format/Datatype"])
        return {"Name": tensor["Name"], "Format": "NCHW", "Datatype": kind}

    layers = [
        {**la, "Inputs": [*map(split, la["Inputs"])], "Outputs": [*map(split, la["Outputs"])]}
        for la in TEN["Layers"]
    ]
    return {"Layers": layers, "I/O Tensors": [{"Name": "x"}, {"Name": "z"}]}


def proof(inspected, **given):
    return proof_of(json.dumps(inspected), provider="p", settings={}, **given)


def test_both_versions_prove_the_same():
    for found in (proof(TEN), proof(eleven())):
        assert (found.eligible, found.integer, found.is_quantized) == (2, 1, True)
        assert (found.sparse, found.sparse_eligible) == (1, 1)
        assert found.operators == {"CaskConvolution": 1, "Reformat": 1, "gemm": 1}


def test_each_layer_is_a_row_with_its_kernel_and_its_numbers():
    reformat, convolution, _ = proof(eleven()).layers
    assert reformat == {
        "name": "Reformatting CopyNode for Input Tensor 0 to conv1",
        "kernel": "Reformat",
        "why": "Reformat: FP32 NCHW to Int8 NCHW",
    }
    assert convolution["kernel"] == TACTIC


def test_int8_weights_of_a_float_layer_are_no_integer_kernel():
    only_weights = {"Layers": [TEN["Layers"][2]]}
    assert proof(only_weights).integer == 0
    assert proof(only_weights, is_quantized=True).is_quantized


def test_sparse_weights_without_a_sparse_kernel_are_counted():
    found = proof({"Layers": [TEN["Layers"][2]]}, sparse_eligible=3)
    assert (found.sparse, found.sparse_eligible) == (0, 3)


def test_an_engine_without_details_proves_nothing():
    found = proof({"Layers": ["conv1 + relu", "fc"], "Bindings": []})
    assert (found.eligible, found.layers, found.integer_kernels) == (0, [], None)
