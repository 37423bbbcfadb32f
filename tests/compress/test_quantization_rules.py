from __future__ import annotations

import pytest

from kdeploy.compress.quantization_rules import saturates
from kdeploy.machine import Machine


@pytest.mark.parametrize(
    ("architecture", "instruction_sets", "expected"),
    [
        ("x86_64", ("avx2",), True),
        ("AMD64", ("avx2", "avx512f"), True),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), False),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("aarch64", ("asimd",), False),
        # A system that tells nothing of its processor.
        ("x86_64", (), False),
    ],
)
def test_it_is_an_x86_without_vnni(architecture, instruction_sets, expected):
    machine = Machine(
        id="", cpu="", architecture=architecture, cores=1, instruction_sets=instruction_sets
    )
    assert saturates(machine) is expected
