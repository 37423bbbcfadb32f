"""ONNX files from elsewhere as they are: any inputs, a state, and no data that say what they mean.

Inputs are items of data where one input takes them; all others are made up from names, declared
sizes and types, and that is told. What the outputs mean nobody says: they are compared as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.cache import contents_sha256
from kdeploy.bench.inputs import Ends, ends_of, input_of_items
from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.data.contract import Dataset
from kdeploy.gate import Gate
from kdeploy.machine import fingerprint
from kdeploy.onnx_graph.checks import file_bytes
from kdeploy.onnx_graph.facts import count_parameters
from kdeploy.onnx_graph.input_fitting import Declared, declared_file
from kdeploy.package.emission import Emission
from kdeploy.package.run import UNSIGNED, golden_of, package
from kdeploy.package.signatures import Signing
from kdeploy.package.verify import VerifyResult, verify
from kdeploy.pipeline.log import RunListener
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.pipeline.packaging import GOLDEN_ITEMS
from kdeploy.runtimes.made_inputs import made_inputs, takes_rows
from kdeploy.system.temporary import temporary_folder

_SEED = 0


def takes_several(file: Path) -> bool:
    """Return whether a file takes more than one tensor."""
    return len(_ends(file).inputs) > 1


def message_of_inputs(file: Path, ends: Ends, *, has_data: bool) -> str:
    """Return in a line what a file is given, and what goes from call to call."""
    whose = "items of the data where they fit, else made up" if has_data else "made up"
    given = ", ".join(map(str, ends.given))
    state = "; ".join(f"`{output}` goes back in as `{name}`" for name, output in ends.state.items())
    return f"{file.name} is given inputs that are {whose}: {given}{f'; {state}' if state else ''}"


def package_file(
    file: Path,
    given: Mapping[str, Declared],
    data: Dataset | None,
    budgets: Sequence[Gate],
    out: Path,
    listener: RunListener,
    signing: Signing = UNSIGNED,
    *,
    emitted: Sequence[Emission] = (),
    asks_index: bool = False,
) -> VerifyResult:
    """Make the bundle of a file as it is, and prove it here; nothing stays when that fails.

    Raises:
        ModelError: a size of an input is open and nobody named it, or the file cannot be run.
    """
    check_runs(file)
    with temporary_folder("outside") as folder:
        named = folder / "model.onnx"
        if given:
            declared_file(file, named, given)
        ready = named if given else file
        ends = _ends(ready)
        inputs = _golden_inputs(ends, data)
        listener.message(message_of_inputs(file, ends, has_data=data is not None))
        golden = golden_of(ready, inputs)
        trial = folder / f"trial{out.suffix if out.suffix == '.zip' else ''}"
        for place in (trial, out):
            package(
                ready,
                place,
                manifest=_manifest(file),
                golden=golden,
                name=out.stem,
                accuracy={},
                budgets=budgets,
                chosen_because="asked for by name",
                signing=signing,
                asks_index=asks_index,
                emitted=emitted,
            )
            result = verify(place)
            if not result.passed:
                break
            out.parent.mkdir(parents=True, exist_ok=True)
    return result


def _ends(file: Path) -> Ends:
    return ends_of(ModelUnderTest(artifact="", label=file.stem, path=file, format="onnx"))


def _golden_inputs(ends: Ends, data: Dataset | None) -> dict[str, NDArray[Any]]:
    """Return an item of each input in a row of its own; whole inputs are the same each time."""
    arrays = made_inputs(ends.given, GOLDEN_ITEMS, np.random.default_rng(_SEED))
    rows = {info.name: takes_rows(info) for info in ends.given}
    if data is not None:
        items = data.preprocessing.apply(data.validation.x[:GOLDEN_ITEMS])
        taken = input_of_items(ends.given, items.shape[1:])
        arrays[taken.name] = np.resize(items, (GOLDEN_ITEMS, *items.shape[1:])).astype(taken.dtype)
    return {
        name: x if rows[name] else np.repeat(x[None], GOLDEN_ITEMS, axis=0)
        for name, x in arrays.items()
    }


def _manifest(file: Path) -> dict[str, Any]:
    """Return what is known of a file that no run made."""
    step = {"stage": "teacher", "technique": "onnx", "label": file.stem}
    identity = contents_sha256(file)[:12]
    return {
        **step,
        "id": identity,
        "facts": {"parameters": count_parameters(file), "size": file_bytes(file)},
        "machine": fingerprint().id,
        "lineage": [{**step, "id": identity}],
    }
