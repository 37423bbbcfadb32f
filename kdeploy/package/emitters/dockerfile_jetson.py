"""A Dockerfile for NVIDIA Jetson (JetPack 6): the server on its cores, TensorRT for its GPU.

A TensorRT engine fits the GPU that it was built on, so none is in the image: `trtexec` of the base
builds and times one on the device. The bundle's folder is the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdeploy.package.dockerfile import Image, dockerfile
from kdeploy.package.emission import Bundle, emitter

# JetPack 6 has Python 3.10; these are the last of each that have a wheel for it on aarch64.
VERSIONS = {"onnxruntime": "1.23.2", "numpy": "2.2.6"}
_BEFORE = """\
# The GPU: docker run --rm --runtime nvidia {slug} /usr/src/tensorrt/bin/trtexec \\
#     --onnx=/bundle/model.onnx
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip \\
    && rm -rf /var/lib/apt/lists/*
"""


@emitter(formats={"onnx"}, needs={"http_server"})
def dockerfile_jetson(
    bundle: Bundle,
    folder: Path,
    *,
    base: str = "nvcr.io/nvidia/l4t-jetpack:r36.4.0",
    port: Annotated[int, Field(ge=1, le=65535)] = 8080,
) -> None:
    """Write the Dockerfile, with libraries that Python 3.10 on aarch64 has.

    Args:
        base: An image of JetPack 6, by tag or by digest.
        port: Of the server in the container.
    """
    image = Image(
        base=base,
        python="python3",
        versions=VERSIONS,
        before=_BEFORE.format(slug=bundle.slug),
    )
    (folder / "Dockerfile").write_text(dockerfile(bundle, image, place=folder.name, port=port))
