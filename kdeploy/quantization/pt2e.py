"""A model on integers: PT2E's graph around a plain float model, with ranges as its only state.

The ranges are observed once; `with_profile` writes them in another encoding. The route is
PyTorch's own: torchao's `prepare_pt2e` and `convert_pt2e` with the quantizer of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from kdeploy.errors import NotCalibrated
from kdeploy.quantization.annotate import RangeQuantizer
from kdeploy.quantization.calibration import calibrate
from kdeploy.quantization.capture import capture
from kdeploy.quantization.contract import wrapper
from kdeploy.quantization.number_format import INT7
from kdeploy.quantization.observers import Range
from kdeploy.quantization.placement import NAMING, Placement, place
from kdeploy.quantization.profiles import profile_named
from kdeploy.quantization.rewrites import into_integer_operators
from kdeploy.quantization.suppress_warnings import without_torch_noise
from kdeploy.quantization.torchao_pt2e import convert_pt2e, prepare_pt2e
from kdeploy.torch_module.named_inputs import hold_example


class QuantizedModel(nn.Module):
    """Computes what the INT8 file will compute, in float with every rounding in place.

    `base` stays the float model. The graph is rebuilt from `base` and `state()` and then gives
    the same outputs, bit for bit. It is always in evaluation mode.
    """

    wrapper = "pt2e"
    example: Tensor

    def __init__(
        self,
        base: nn.Module,
        example: Tensor,
        *,
        ranges: Mapping[str, Range],
        profile: str,
        reduce_range: bool = False,
        weight_scales: Mapping[str, Sequence[float]] | None = None,
        float_layers: Collection[str] = (),
        naming: int = NAMING,
        keeps_apart: bool = True,
        captured: GraphModule | None = None,
    ) -> None:
        """Quantize `base`.

        Args:
            base: The float model.
            example: Two rows of input, to trace it with.
            ranges: Of each quantized tensor.
            profile: The name of the encoding.
            reduce_range: 7-bit weights.
            weight_scales: By the weight's name, those that were learned; of all other weights
                the largest value decides.
            float_layers: Layers that are not quantized, as `placement.layers` names them.
            naming: How the ranges' names were given, `placement.NAMING` by this version.
            keeps_apart: Whether tensors of unlike ranges have scales of their own, see `place`;
                models of earlier versions were stored without.
            captured: The graph of `base` on integer operators, where the caller has it already;
                tracing takes longer than all that follows. It is taken over.
        """
        super().__init__()
        self.base = base.eval()
        self.profile = profile
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        self.reduce_range = reduce_range
        self.weight_scales = {n: [float(s) for s in v] for n, v in (weight_scales or {}).items()}
        self.float_layers = list(float_layers)
        self.naming = naming
        self.keeps_apart = keeps_apart
        hold_example(self, example)
        self.graph = self._converted(captured)
        self.training = False

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        output: Tensor = self.graph(*inputs, **named)
        return output

    def train(self, mode: bool = True) -> QuantizedModel:
        """Do nothing: rounding has no gradient, and batch norms are folded."""
        return self

    def state(self) -> dict[str, Any]:
        """Return the profile, the options and the range of each quantized tensor."""
        optional = {"weight_scales": self.weight_scales, "float_layers": self.float_layers}
        return {
            "profile": self.profile,
            "reduce_range": self.reduce_range,
            "ranges": {name: list(span) for name, span in self.ranges.items()},
            "naming": self.naming,
            "keeps_apart": self.keeps_apart,
            **{name: value for name, value in optional.items() if value},
        }

    def with_profile(self, profile: str) -> QuantizedModel:
        """Return the same model and ranges in the encoding and placement of another profile."""
        return pt2e(self.base, {**self.state(), "profile": profile}, self.example)

    @property
    def placed_by(self) -> dict[str, Range] | None:
        """The ranges by which `place` keeps tensors apart, none where it shall not."""
        return self.ranges if self.keeps_apart else None

    def check_ranges(self, placement: Placement) -> None:
        """Refuse a placement with tensors whose range is not known.

        Raises:
            NotCalibrated: there is none, or only under a name of an earlier version that now
                stands for another tensor.
        """
        if self.naming != NAMING and placement.names != placement.former_names:
            raise NotCalibrated(
                "this INT8 model was stored by an earlier version, which gave "
                f"{len(placement.names.items() - placement.former_names.items())} of its tensors "
                "other names",
                hint="run the INT8 step again, e.g. the recipe with `--no-cache`",
            )
        missing = [name for name in placement.names.values() if name not in self.ranges]
        if missing:
            raise NotCalibrated(
                f"{len(missing)} tensors have no range (first: `{missing[0]}`)",
                hint="quantize the float model again: it is not the one that was calibrated",
            )

    def unfolded(self) -> GraphModule:
        """Return the graph with float weights behind quantizers, in place of their codes."""
        return self._converted(None, fold_weights=False)

    def _converted(self, captured: GraphModule | None, *, fold_weights: bool = True) -> GraphModule:
        profile = profile_named(self.profile)
        graph_module = captured or into_integer_operators(capture(self.base, self.example))
        floats, placed_by = self.float_layers, self.placed_by
        self.check_ranges(place(graph_module, profile, float_layers=floats, ranges=placed_by))
        weight_format = INT7 if self.reduce_range else profile.weight
        quantizer = RangeQuantizer(
            profile,
            self.ranges,
            weight_format,
            weight_scales=self.weight_scales,
            float_layers=self.float_layers,
            placed_by=placed_by,
        )
        with without_torch_noise():
            prepared = prepare_pt2e(graph_module, quantizer)
            converted = convert_pt2e(prepared, fold_quantize=fold_weights)
        return _constants_only(converted)


@wrapper()
def pt2e(base: nn.Module, state: Mapping[str, Any], example: Tensor) -> QuantizedModel:
    """Return `base` quantized again as `state` says."""
    return QuantizedModel(
        base,
        example,
        ranges={name: (low, high) for name, (low, high) in state["ranges"].items()},
        profile=state["profile"],
        reduce_range=state["reduce_range"],
        weight_scales=state.get("weight_scales"),
        float_layers=state.get("float_layers", ()),
        naming=state.get("naming", 1),
        keeps_apart=state.get("keeps_apart", False),
    )


def observe(
    model: nn.Module, example: Tensor, batches: Iterable[Tensor], *, choice: str
) -> dict[str, Range]:
    """Return the range of every tensor that any profile quantizes.

    Args:
        model: The float model.
        example: Two rows of input, to trace the model with.
        batches: Preprocessed inputs.
        choice: Which range the values lead to, a name in `observers.RANGE_ESTIMATORS`.

    Raises:
        NotCalibrated: a tensor got no values.
        ModelError: a tensor had values that are not finite.
    """
    return calibrate(model, example, batches).ranges(choice)


def _constants_only(graph_module: GraphModule) -> GraphModule:
    """Make parameters of the graph buffers: what is learned lives in the base model."""
    for module in graph_module.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    # A fresh module, since PT2E's refuses to be copied and to be put into evaluation mode.
    return GraphModule(graph_module, graph_module.graph).eval()
