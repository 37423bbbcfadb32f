"""Where sums of 8-bit products saturate: x86 processors without VNNI.

Their `pmaddubsw` adds two products of uint8 and int8 in 16 bits, and 2 x 255 x 127 does not fit;
weights of 7 bits always do.
"""

from __future__ import annotations

from kdeploy.machine import Machine

ARCHITECTURES = frozenset({"x86_64", "AMD64", "i686"})
VECTORS = frozenset({"avx2", "avx512f"})
WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def saturates(machine: Machine) -> bool:
    """Return whether the machine is known to be an x86 whose INT8 sums saturate."""
    known = set(machine.instruction_sets)
    is_known_x86 = machine.architecture in ARCHITECTURES and bool(known & VECTORS)
    return is_known_x86 and not known & WIDE_SUMS
