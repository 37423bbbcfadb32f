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


def test_weighted_operators_start_the_demand_in_every_profile():
    for profile in PROFILES.values():
        assert all(profile.rules[kind].starts for kind in ("conv", "linear", "matmul"))


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UnknownName, match="profile") as caught:
        profile_named("tensort")
    assert "did you mean `tensorrt`" in str(caught.value)
