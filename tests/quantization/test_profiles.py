from __future__ import annotations

import pytest

from kdeploy.errors import UnknownName
from kdeploy.quantization.profiles import PROFILES, profile_named


def test_tensorrt_gets_symmetric_signed_codes_alone():
    formats = {PROFILES["tensorrt"].activation, PROFILES["tensorrt"].weight}
    assert {(f.is_signed, f.is_symmetric) for f in formats} == {(True, True)}


def test_cpu_activations_are_unsigned_so_that_code_zero_replaces_a_relu():
    profile = PROFILES["cpu"]
    assert not profile.activation.is_signed
    assert profile.absorbs_activations
    assert profile.weight.is_symmetric


def test_arm_has_the_codes_of_the_cpu_moved_by_128():
    cpu, arm = PROFILES["cpu"], PROFILES["arm"]
    for span in ((0.0, 6.0), (-1.0, 3.0), (-2.0, 0.0)):
        scale, zero_point = cpu.activation.scale_and_zero_point(*span)
        assert arm.activation.scale_and_zero_point(*span) == (scale, zero_point - 128)
    assert (arm.rules, arm.absorbs_activations) == (cpu.rules, cpu.absorbs_activations)


def test_weighted_operators_start_the_demand_in_every_profile():
    for profile in PROFILES.values():
        kinds = ("conv", "linear") if profile.name == "xnnpack" else ("conv", "linear", "matmul")
        assert all(profile.rules[kind].starts for kind in kinds)


def test_xnnpack_has_codes_behind_every_layer_and_float_products():
    rules = PROFILES["xnnpack"].rules
    assert all(rules[kind].output for kind in ("conv", "linear"))
    assert "matmul" not in rules


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UnknownName, match="profile") as caught:
        profile_named("tensort")
    assert "did you mean `tensorrt`" in str(caught.value)
