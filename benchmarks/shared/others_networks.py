"""Small networks of other people, for grey pictures of 16 x 16 pixels and ten classes.

Those of pytorchcv end in a pool over as many positions as their own inputs leave; here one over all
positions stands in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.store.references import ModelReference, build_model

SIDE, NUM_CLASSES = 16, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How a network is built: a function of this file and its arguments."""

    build: str
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"{Path(__file__).resolve()}:{self.build}"


def _pytorchcv(*names: str) -> dict[str, Network]:
    return {name: Network(build="of_pytorchcv", args={"name": name}) for name in names}


NETWORKS = {
    **_pytorchcv("resnet20_cifar10", "preresnet20_cifar10", "seresnet20_cifar10"),
    **_pytorchcv("nin_cifar10", "resnet10", "squeezenet_v1_1"),
    **_pytorchcv("mobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_w7d20"),
    **_pytorchcv("shufflenetv2_wd2", "peleenet"),
    "vit": Network(build="vit", args={"hidden_size": 64, "layers": 4}),
}


def of_pytorchcv(*, name: str) -> nn.Module:
    """Return a network of pytorchcv for one channel."""
    args = {"in_channels": 1, "num_classes": NUM_CLASSES, "in_size": (SIDE, SIDE)}
    model = build_model(ModelReference(build=f"pytorchcv:{name}", args=args))
    for module in model.modules():
        if isinstance(getattr(module, "final_pool", None), nn.AvgPool2d):
            module.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def vit(*, hidden_size: int = 64, layers: int = 4) -> nn.Module:
    """Return a vision transformer of transformers over patches of 4 x 4 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        image_size=SIDE,
        patch_size=4,
        num_channels=1,
        num_labels=NUM_CLASSES,
    )
    return LogitsAlone(ViTForImageClassification(config))


class LogitsAlone(nn.Module):
    """A classifier of transformers that answers with its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


def untrained(network: Network, *, seed: int) -> nn.Module:
    """Return a network with the first weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(ModelReference(build=network.reference, args=network.args))
