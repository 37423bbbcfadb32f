"""A decoder with its tokenizer, run by ONNX Runtime GenAI: it answers prompts on a device.

All that belongs to it is called `model.*` in the bundle: `model.json` is the genai_config.json,
`model.tokenizer.json` the tokenizer.json, and so on; the library finds them under its own names in
a folder of links that is gone once they are open.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.block_weights import OPERATOR
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.manifest import Port
from kdeploy.runtimes.onnxruntime_genai import INPUT, OnnxruntimeGenai
from kdeploy.untrusted.json_document import json_file

PROMPT_TOKENS = 16
PLAIN = re.compile(r"[\w.%|<> -]{0,200}")
"""Texts of a configuration: names of tensors, files beside it, tokens; no path."""
UNTRUSTED = re.compile("librar|custom|provider|plugin|path|pipeline|adapter")
"""Keys by which a configuration can ask for code, or for files from elsewhere."""


@bundle(
    formats={"genai"},
    runtime="onnxruntime_genai",
    libraries={"onnxruntime_genai": "MIT, Copyright (c) Microsoft Corporation"},
    prompt_tokens=16,
)
class Genai:
    """`model.json`, `model.onnx`, its weights, the tokenizer and the chat template."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        config = json_file(path)
        for place in _asks_for_more(config, ""):
            raise ModelError(
                f"{path}: `{place}` could load code or files from elsewhere",
                hint="export it again: `kdeploy export onnxruntime_genai`",
            )
        OnnxruntimeGenai.inputs_of(path)  # refuses what is no such configuration
        graph = read_onnx(path.parent / config["model"]["decoder"]["filename"]).graph
        tokens = config["model"].get("vocab_size")
        if type(tokens) is not int or tokens < 2:
            raise ModelError(
                f"{path} does not say how many tokens there are", hint="export it again"
            )
        return FileFacts(
            inputs=(Port(name=INPUT, shape=("batch", PROMPT_TOKENS), type="int64"),),
            outputs=(Port(name="logits", shape=("batch", tokens), type="float32"),),
            is_quantized=any(node.op_type == OPERATOR for node in graph.node),
        )

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        for file in OnnxruntimeGenai.files_of(path):
            name = file.name if file.name.startswith("model.onnx") else f"model.{file.name}"
            shutil.copyfile(file, folder / ("model.json" if file == path else name))
        return folder / "model.json"

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import json
        import os
        import pathlib
        import tempfile
        import time

        import numpy

        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is on unless told otherwise
        import onnxruntime_genai

        source = pathlib.Path(path).resolve()
        options: dict[str, Any] = {"intra_op_num_threads": threads}
        if is_plain:
            options["graph_optimization_level"] = "ORT_DISABLE_ALL"
        with tempfile.TemporaryDirectory() as place:
            for file in source.parent.iterdir():
                is_weights = file.name.startswith("model.onnx")
                name = file.name if is_weights else file.name.replace("model.", "", 1)
                (pathlib.Path(place) / name).symlink_to(file)
            if source.name == "model.json":
                (pathlib.Path(place) / "genai_config.json").symlink_to(source)
            config = onnxruntime_genai.Config(place)
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            model = onnxruntime_genai.Model(config)
            tokenizer = onnxruntime_genai.Tokenizer(model)
            has_template = (pathlib.Path(place) / "chat_template.jinja").exists()

        def begun(ids: Any, longest: int) -> Any:
            parameters = onnxruntime_genai.GeneratorParams(model)
            parameters.set_search_options(max_length=longest, do_sample=False)
            generator = onnxruntime_genai.Generator(model, parameters)
            generator.append_tokens(numpy.asarray(ids, numpy.int32))
            return generator

        def run(feeds: dict[str, Any]) -> dict[str, Any]:
            ids = feeds["input_ids"]
            scores = begun(ids, ids.shape[1] + 1).get_logits()
            return {"logits": numpy.array(scores, numpy.float32).reshape(1, -1)}

        def answer(prompt: str, count: int) -> dict[str, Any]:
            """Return what the model says to a prompt, and how long that took."""
            text = prompt
            if has_template:
                messages = json.dumps([{"role": "user", "content": prompt}])
                text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            ids = tokenizer.encode(text)
            started = time.perf_counter()
            generator, tokens, first = begun(ids, len(ids) + count), [], 0.0
            while not generator.is_done():
                generator.generate_next_token()
                tokens.append(int(generator.get_next_tokens()[0]))
                first = first or time.perf_counter() - started
            seconds = time.perf_counter() - started - first
            return {
                "answer": tokenizer.decode(numpy.array(tokens, numpy.int32)),
                "prompt_tokens": len(ids),
                "new_tokens": len(tokens),
                "first_token_seconds": first,
                "tokens_per_second": (len(tokens) - 1) / seconds if len(tokens) > 1 else None,
            }

        run.answer = answer  # type: ignore[attr-defined]  # a function has room for another
        return run


def _asks_for_more(value: Any, place: str) -> Iterator[str]:
    """Yield the places of a configuration that name code, or files that do not lie beside it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{place}.{key}".lstrip(".")
            if UNTRUSTED.search(str(key)) and inner not in ([], {}, None):
                yield where
            yield from _asks_for_more(inner, where)
    elif isinstance(value, list):
        for inner in value:
            yield from _asks_for_more(inner, place)
    elif isinstance(value, str) and not PLAIN.fullmatch(value):
        yield place
