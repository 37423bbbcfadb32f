from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.quantization.number_format import (
    INT7,
    INT8,
    UINT8,
    bias_floor,
    channel_scales,
)

ends = st.floats(-1e4, 1e4, width=32)


def test_formats_have_the_codes_of_their_bits():
    codes = [(f.qmin, f.qmax) for f in (UINT8, INT8, INT7)]
    assert codes == [(0, 255), (-128, 127), (-64, 63)]


@given(ends, ends)
def test_a_range_fits_into_its_codes_to_half_a_step(one, other):
    low, high = min(one, other), max(one, other)
    for number_format in (UINT8, INT8):
        scale, zero_point = number_format.scale_and_zero_point(low, high)
        lowest = (number_format.qmin - zero_point) * scale
        highest = (number_format.qmax - zero_point) * scale
        assert lowest <= low + 0.501 * scale
        assert highest >= high - 0.501 * scale


@given(ends, ends)
def test_zero_is_exact(one, other):
    low, high = min(one, other), max(one, other)
    for number_format in (UINT8, INT8):
        scale, zero_point = number_format.scale_and_zero_point(low, high)
        zero = np.zeros(1, np.float32)
        assert number_format.quantize(zero, scale, zero_point) == 0


def test_a_range_without_negatives_starts_at_code_zero():
    assert UINT8.scale_and_zero_point(0.0, 5.1) == (pytest.approx(0.02, rel=1e-6), 0)
    assert UINT8.scale_and_zero_point(1.0, 5.1)[1] == 0


def test_symmetric_formats_have_zero_point_zero():
    assert INT8.scale_and_zero_point(-2.54, 1.0) == (pytest.approx(0.02, rel=1e-6), 0)


def test_an_empty_range_has_a_scale_that_runtimes_accept():
    assert UINT8.scale_and_zero_point(0.0, 0.0) == (1.0, 0)
    assert UINT8.scale_and_zero_point(0.0, 1e-40)[0] == 1.0


def test_quantize_agrees_with_the_formula():
    x = np.random.default_rng(0).uniform(-3, 3, 1001).astype(np.float32)
    scale, zero_point = UINT8.scale_and_zero_point(-1.0, 2.0)
    codes = np.minimum(np.maximum(np.round(x.astype(np.float64) / scale) + zero_point, 0), 255)
    expected = (codes - zero_point) * scale
    np.testing.assert_allclose(UINT8.quantize(x, scale, zero_point), expected, atol=1e-6)


def test_channel_scales_map_the_largest_weight_to_the_highest_code():
    weight = np.array([[0.5, -1.27], [0.1, 0.2]], np.float32)
    scales = channel_scales(weight, INT8, floor=np.zeros(2, np.float32))
    np.testing.assert_allclose(scales, [0.01, 0.2 / 127], rtol=1e-6)


def test_a_dead_channel_keeps_its_bias():
    # A channel of zero weights must not get a step so fine or so coarse that its bias is lost.
    weight, bias = np.zeros((1, 4), np.float32), np.array([3.0], np.float32)
    [scale] = channel_scales(weight, INT8, floor=bias_floor(bias, input_scale=0.02))
    code = np.rint(3.0 / (np.float64(scale) * 0.02))
    assert 2**24 < code < 2**31
    assert code * scale * 0.02 == pytest.approx(3.0, rel=1e-6)


def test_a_channel_without_weights_and_bias_has_any_scale_but_zero():
    weight = np.zeros((1, 4), np.float32)
    assert channel_scales(weight, INT8, floor=np.zeros(1, np.float32)) == [1.0]
