"""A decoder with its cache inside, for OpenVINO: weights as codes stay codes.

Keys and values are the graph's own state (ReadValue, Assign): what is fed is the new tokens alone.
The graph is that of transformers' own exporter. https://docs.openvino.ai, "Stateful models"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.contract import exporter
from kdeploy.export.decoder_cache import cache_bound, check_cache, required_decoder
from kdeploy.export.genai_builder import write_float_folder
from kdeploy.export.openvino_codes import put_codes_in
from kdeploy.quantization.suppress_warnings import without_converter_noise
from kdeploy.store.transformers_models import quiet, transformers_model
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.decoders import decoder_in

PAST = 5
"""Tokens of the example that are cache already: the graph must not count on a length."""


@exporter(
    source={"torch"},
    suffix=".xml",
    file="openvino_model.xml",
    runtime="openvino",
    refuses={"int8", "int8_dynamic"},
    tokenizer=True,
    of="language_model",
)
def openvino_stateful_from_torch(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write `path`, and `.bin` of the same name beside it.

    Args:
        model: A causal language model of transformers, float or with weights on codes.
        example: Two rows of token ids.
        path: The `.xml` file; the tokenizer's files lie beside it already.

    Raises:
        MissingDependency: OpenVINO, or an exporter of transformers, is not installed.
        ModelError: it is no causal language model, or has operators that OpenVINO does not know.
        ParityFailed: the cache changes what the file computes.
    """
    module = required_decoder(model, target="openvino_stateful", other="openvino")
    try:
        import openvino
        import transformers
        import transformers.exporters.exporter_openvino
    except ImportError as error:
        raise MissingDependency.named(
            "openvino", needed_for="`openvino_stateful`", pip="'kdeploy[openvino,language]'"
        ) from error
    with temporary_folder("openvino") as work:
        write_float_folder(module, work / "float", path.parent)
        folder = work / "float"
        plain = transformers_model(transformers, folder, {}, asked="the model").eval()
        with quiet(transformers), without_converter_noise():
            graph = _exported(decoder_in(plain), example)
    put_codes_in(graph, model)
    openvino.save_model(graph, path, compress_to_fp16=False)
    check_cache("openvino", path, example[0], bound=cache_bound(model, example[:1]))


def _exported(plain: Any, example: Tensor) -> Any:
    """Return the graph of a decoder that has read some tokens and is given the others."""
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    past, new = example[:, :PAST], example[:, PAST:]
    places = torch.arange(PAST, example.shape[1]).expand_as(new).contiguous()
    with torch.no_grad():
        cache = plain(past, use_cache=True).past_key_values
    given = {
        "input_ids": new,
        "attention_mask": torch.ones_like(example),
        "position_ids": places,
        "past_key_values": cache,
    }
    config = OpenVINOConfig(dynamic=True, dynamic_shapes=get_auto_dynamic_shapes(given))
    try:
        return OpenVINOExporter().export(plain, given, config).program
    except Exception as error:  # torch's, OpenVINO's and the exporter's own have no common base
        raise ModelError(
            f"transformers cannot write this `{type(plain).__name__}` for OpenVINO: "
            f"{str(error).strip().splitlines()[0][:300]}",
            hint="`onnxruntime_genai` writes decoders too; `openvino` a graph without a cache",
        ) from error
