"""Artefacts of one float network for the runtimes on a GPU: as it is, 2:4, INT8, and both."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.shared.noise import noise
from kdeploy.compress.compressors.two_four import two_four
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import Dataset
from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.store.artifact import write_manifest
from kdeploy.store.model_io import save_model
from kdeploy.store.references import ModelReference, build_model

DENSE, SPARSE, INT8, SPARSE_INT8 = "dense", "2:4", "int8", "2:4 int8"
# The kernels for INT8 want both sizes of a product in multiples of 32.
MULTIPLE = 32
CALIBRATION_ITEMS = 512


def vit_b16() -> nn.Module:
    """Return ViT-B/16 of `vit_pytorch`, 224x224, 1000 classes."""
    return _vit(image_size=224, patch_size=16, dim=768, depth=12, heads=12, mlp_dim=3072)


def vit_tiny() -> nn.Module:
    """Return a ViT of two layers for 32x32, to try a suite with."""
    return _vit(image_size=32, patch_size=8, dim=64, depth=2, heads=2, mlp_dim=128)


def settled(build: str, side: int) -> tuple[nn.Module, Dataset]:
    """Return a network whose batch norms have seen noise, and that noise as data."""
    torch.manual_seed(0)
    data = noise((3, side, side), 8)
    model = build_model(ModelReference(build=build))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(data.train.x))
    return model.eval(), data


def write_artefacts(
    build: str,
    model: nn.Module,
    data: Dataset,
    folder: Path,
    *,
    args: dict[str, Any] | None = None,
    method: Literal["magnitude", "sparse_gpt"] = "magnitude",
) -> dict[str, Path]:
    """Write the four artefacts; return their folders.

    Args:
        build: The reference that builds the network.
        model: With the weights.
        data: To calibrate on.
        folder: Where they are written.
        args: Of the build function.
        method: Of `two_four`.
    """
    context = CompressContext(data=data)
    sparse = two_four(model, context, multiple=MULTIPLE, method=method)
    models = {
        DENSE: model,
        SPARSE: sparse,
        INT8: quantized(model, data),
        SPARSE_INT8: quantized(sparse, data),
    }
    reference = ModelReference(build=build, args=args or {})
    return {
        name: _write(folder / name.replace(":", ""), each, reference, data)
        for name, each in models.items()
    }


def quantized(model: nn.Module, data: Dataset) -> QuantizedModel:
    """Return the model on symmetric integers, calibrated on up to 512 training items."""
    x = torch.from_numpy(data.preprocessing.apply(data.train.x[:CALIBRATION_ITEMS]))
    with torch.no_grad():
        ranges = observe(model, x[:2], x.split(32), choice="mse")
    return QuantizedModel(model, x[:2], ranges=ranges, profile="tensorrt")


def _write(folder: Path, model: nn.Module, reference: ModelReference, data: Dataset) -> Path:
    folder.mkdir(parents=True)
    entry = save_model(folder, model, reference)
    facts = {"name": data.name, "preprocessing": data.preprocessing.to_dict()}
    manifest = {"id": folder.name, "kind": "torch", "label": folder.name}
    write_manifest(folder, {**manifest, "model": entry, "data": facts})
    return folder


def _vit(**sizes: Any) -> nn.Module:
    """Import one file of the package: the package as a whole wants torchvision."""
    package: Any = importlib.util.find_spec("vit_pytorch")
    file = Path(package.origin).parent / "vit.py"
    spec: Any = importlib.util.spec_from_file_location("vit", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ViT(num_classes=1000, dim_head=64, **sizes)  # type: ignore[no-any-return]
