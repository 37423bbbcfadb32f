"""A Dockerfile that serves the bundle's model over HTTP on a processor.

The bundle's folder is the context: `docker build -f deploy/dockerfile_cpu/Dockerfile -t NAME .`.
https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdeploy.package.dockerfile import Image, dockerfile
from kdeploy.package.emission import Bundle, emitter


@emitter(formats={"onnx", "ort_format", "litert", "dynamic"}, needs={"http_server"})
def dockerfile_cpu(
    bundle: Bundle,
    folder: Path,
    *,
    base: str = "docker.io/library/python:3.12.8-slim-bookworm",
    port: Annotated[int, Field(ge=1, le=65535)] = 8080,
) -> None:
    """Write the Dockerfile, with the versions of the libraries that the bundle was made with.

    Args:
        base: An image of Python with pip, by tag or, better, by digest (`NAME@sha256:...`).
        port: Of the server in the container.
    """
    made = {name.replace("_", "-"): v for name, v in bundle.manifest.made_with.items()}
    image = Image(base=base, python="python", versions=made)
    (folder / "Dockerfile").write_text(dockerfile(bundle, image, place=folder.name, port=port))
