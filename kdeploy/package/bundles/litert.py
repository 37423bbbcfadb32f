"""A `.tflite` file for LiteRT: a device needs numpy and one wheel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.runtimes.files import inputs_of, outputs_of
from kdeploy.runtimes.run import open_runtime


@bundle(
    formats={"litert"},
    runtime="litert",
    libraries={"ai_edge_litert": "Apache-2.0, Copyright the LiteRT authors, Google"},
)
class Litert:
    """`model.tflite`; the codes that an INT8 file takes and gives are made outside of it."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        taken, given = inputs_of(path, "litert"), outputs_of(path, "litert")
        inputs, outputs = ports_of(path, taken or (), given or ())
        opened = open_runtime("litert", path, threads=1)
        is_quantized = opened.proof_of_use().is_quantized
        opened.close()
        return FileFacts(inputs=inputs, outputs=outputs, is_quantized=is_quantized)

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        return Path(shutil.copyfile(path, folder / "model.tflite"))

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import numpy
        from ai_edge_litert import interpreter as litert

        # Without the delegate its own kernels compute, each operator by itself.
        resolvers = litert.OpResolverType
        opened = litert.Interpreter(
            path,
            num_threads=threads,
            experimental_op_resolver_type=(
                resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES if is_plain else resolvers.AUTO
            ),
        )
        opened.allocate_tensors()  # first: LiteRT refuses it while a signature is held
        signature = opened.get_signature_runner("serving_default")
        taken, given = signature.get_input_details(), signature.get_output_details()

        def encoded(array: Any, detail: Any) -> Any:
            scale, zero_point = detail["quantization"]
            if not scale or detail["dtype"] != numpy.int8:
                return array
            codes = numpy.rint(array * (numpy.float32(1) / numpy.float32(scale))) + zero_point
            return numpy.clip(codes, -128, 127).astype(numpy.int8)

        def decoded(array: Any, detail: Any) -> Any:
            scale, zero_point = detail["quantization"]
            if not scale or detail["dtype"] != numpy.int8:
                return array
            return (array.astype(numpy.float32) - zero_point) * numpy.float32(scale)

        def run(feeds: Any) -> Any:
            for name, detail in taken.items():
                opened.set_tensor(detail["index"], encoded(feeds[name], detail))
            opened.invoke()
            return {n: decoded(opened.get_tensor(d["index"]), d) for n, d in given.items()}

        return run
