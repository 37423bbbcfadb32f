"""What stands beside an engine: where it runs, what it was built of, how to build it again.

A JSON file of the engine's name. The engine itself stays as TensorRT wrote it, so that any other
program opens it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.tensorrt.api import Device
from kdeploy.untrusted.json_document import json_text

REBUILD = "build it again here: `kdeploy export tensorrt` with the parameters in {sidecar}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """An engine's origin; what a reader needs to refuse it before TensorRT does so less kindly."""

    tensorrt: str
    """The version that built it."""
    gpu: str
    compute_capability: str
    driver: str | None
    engine_bytes: int
    onnx_sha256: str
    """Of the file that it was built of, before its numbers became float16."""
    parameters: Mapping[str, Any]
    """Of the exporter `tensorrt`: with the ONNX file, the recipe to build it again."""
    is_quantized: bool = False
    sparse_eligible: int = 0
    """Layers of the ONNX file whose weights are 2:4 sparse."""
    sparsity: tuple[str, ...] = ()
    """What the builder said about sparse kernels."""
    kdeploy: str = ""

    def write(self, engine: Path) -> None:
        """Write it beside the engine."""
        sidecar_of(engine).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def beside(cls, engine: Path) -> Sidecar | None:
        """Return what stands beside an engine; None where nothing does.

        Raises:
            ModelError: it cannot be read.
        """
        path = sidecar_of(engine)
        if not path.is_file():
            return None
        try:
            entries = json_text(path.read_bytes())
            # A later version may write more.
            known = {k: v for k, v in entries.items() if k in cls.__dataclass_fields__}
            return cls(**{**known, "sparsity": tuple(known["sparsity"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{path} is not the description of an engine: {error}",
                hint="export the engine again, or remove that file if it is another program's",
            ) from error

    @property
    def is_version_compatible(self) -> bool:
        return bool(self.parameters.get("version_compatible"))

    def check(self, engine: Path, *, version: str, device: Device) -> None:
        """Raise unless this TensorRT on this GPU can open the engine.

        Raises:
            ModelError: the file is not whole, or was built for another version or GPU.
        """
        hint = REBUILD.format(sidecar=sidecar_of(engine))
        found = engine.stat().st_size
        if found != self.engine_bytes:
            raise ModelError(
                f"the engine {engine} has {found} bytes and was written with {self.engine_bytes}",
                hint="copy it again, with the file beside it; else " + hint,
            )
        if not self._fits_version(version):
            raise ModelError(
                f"the engine {engine} was built by TensorRT {self.tensorrt}, and here is {version}",
                hint=hint + "; built with `version_compatible`, later versions open it too",
            )
        if not self._fits_gpu(device.compute_capability):
            raise ModelError(
                f"the engine {engine} was built for compute capability {self.compute_capability} "
                f"({self.gpu}), and here is {device.compute_capability} ({device.gpu})",
                hint=hint,
            )

    def _fits_version(self, version: str) -> bool:
        if self.is_version_compatible:
            return _numbers(version)[:2] >= _numbers(self.tensorrt)[:2]
        return version == self.tensorrt

    def _fits_gpu(self, capability: str) -> bool:
        if self.parameters.get("hardware_compatibility") == "ampere_plus":
            return _numbers(capability) >= (8, 0)
        return capability == self.compute_capability


def sidecar_of(engine: Path) -> Path:
    """Return the path of the file that describes an engine."""
    return engine.with_suffix(".json")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
