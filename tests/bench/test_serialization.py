from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.serialization import plain, restored


@dataclass(frozen=True, kw_only=True)
class Inner:
    names: list[str]
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Outer:
    rounds: tuple[NDArray[np.float64], ...]
    pair: tuple[int, str]
    inner: Inner | None = None
    missing: Inner | None = None
    classes: NDArray[np.int64] | None = None
    number: float = 0.0


def test_a_dataclass_comes_back_from_json_and_arrays():
    value = Outer(
        rounds=(np.array([1.0, 2.0]), np.array([3.0])),
        pair=(1, "a"),
        inner=Inner(names=["x"], counts={"y": 2}),
        classes=np.array([5]),
        number=np.float64(0.5),
    )
    arrays: list[object] = []
    stored = json.loads(json.dumps(plain(value, arrays)))
    found = Outer(**restored(Outer, stored, arrays))
    assert [r.tolist() for r in found.rounds] == [[1.0, 2.0], [3.0]]
    assert found.classes.tolist() == [5]
    assert (found.pair, found.inner, found.missing) == (value.pair, value.inner, None)
    assert found.number == 0.5
