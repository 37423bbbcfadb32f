"""The shapes that an engine is tuned for: smallest, best and largest of each dynamic dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdeploy.errors import ModelError, RecipeError, UnknownName

if TYPE_CHECKING:
    import tensorrt

Range = tuple[int, int, int]
"""Smallest, best, largest."""


def check_range(name: str, found: tuple[int, ...]) -> Range:
    """Return the three numbers.

    Raises:
        RecipeError: they are not three that grow.
    """
    if len(found) != 3 or not 1 <= found[0] <= found[1] <= found[2]:
        raise RecipeError(
            f"the range of `{name}` is {list(found)}; it takes three numbers: the smallest, the "
            "one to be fastest at, the largest",
            hint=f"e.g. {name}: [1, 8, 64]",
        )
    smallest, best, largest = found
    return smallest, best, largest


def add_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    batch: Range,
    dimensions: Mapping[str, Range],
) -> None:
    """Give the builder one profile over all dynamic inputs; none where all shapes are fixed.

    Args:
        builder: Makes the profile.
        network: Whose inputs have the dimensions.
        config: Takes the profile.
        batch: The range of a dynamic first dimension, unless `dimensions` names it.
        dimensions: The ranges of the others, by their names in the ONNX file.

    Raises:
        ModelError: a dynamic dimension without a range.
        UnknownName: a range without a dimension.
    """
    inputs: list[tensorrt.ITensor] = [network.get_input(i) for i in range(network.num_inputs)]
    named = {name for tensor in inputs for name in _dynamic(tensor).values()}
    for name in dimensions:
        if name not in named:
            raise UnknownName.among("dynamic dimension", name, named, where="the ONNX file")
    profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
    is_dynamic = False
    for tensor in inputs:
        ranges = _ranges(tensor, batch, dimensions)
        if ranges:
            is_dynamic = True
            profile.set_shape(tensor.name, *_shapes(tensor, ranges))
    if is_dynamic and config.add_optimization_profile(profile) < 0:
        raise ModelError(
            f"TensorRT refuses the shapes: batch {list(batch)}, {dict(dimensions)}",
            hint="the smallest, best and largest sizes must all be possible for the model",
        )


def _dynamic(tensor: tensorrt.ITensor) -> dict[int, str]:
    """Return the dynamic dimensions of an input, with their names where they have any."""
    return {
        axis: str(tensor.get_dimension_name(axis) or "")
        for axis, size in enumerate(tensor.shape)
        if size < 0
    }


def _ranges(
    tensor: tensorrt.ITensor, batch: Range, dimensions: Mapping[str, Range]
) -> dict[int, Range]:
    ranges = {}
    for axis, name in _dynamic(tensor).items():
        if name in dimensions:
            ranges[axis] = dimensions[name]
        elif axis == 0:
            ranges[axis] = batch
        else:
            raise ModelError(
                f"dimension {axis} of the input `{tensor.name}`, `{name}`, is dynamic and has no "
                "range",
                hint=f"give it one: `--dimensions '{{{name or axis}: [128, 224, 512]}}'`",
            )
    return ranges


def _shapes(tensor: tensorrt.ITensor, ranges: Mapping[int, Range]) -> list[tuple[int, ...]]:
    """Return the smallest, the best and the largest shape."""
    sizes = tuple(tensor.shape)
    return [
        tuple(ranges[axis][which] if axis in ranges else size for axis, size in enumerate(sizes))
        for which in range(3)
    ]
