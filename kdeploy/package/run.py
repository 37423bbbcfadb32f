"""Make the edge bundle: one folder or zip that a device can run, test and check without kdeploy."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy import __version__
from kdeploy.errors import ModelError
from kdeploy.gate import Gate
from kdeploy.machine import fingerprint
from kdeploy.onnx_graph.checks import copy_file, file_bytes
from kdeploy.package.budgets import budgets_of, recorded_values
from kdeploy.package.checksums import write_sums
from kdeploy.package.golden import write_golden
from kdeploy.package.licences import check_licences, write_licences
from kdeploy.package.manifest import (
    MODEL,
    SCHEMA_VERSION,
    Budget,
    Layout,
    Manifest,
    ModelFile,
    StoredPreprocessing,
    Values,
    write_manifest,
)
from kdeploy.package.onnx_file import OnnxFacts, contradiction, facts_of
from kdeploy.package.publish import published
from kdeploy.package.readme import readme
from kdeploy.preprocessing import Inputs, Preprocessing
from kdeploy.store.artifact import file_sha256

RUNNER = Path(__file__).parent / "runner" / "python" / "run.py"
RUNNER_FILES = {
    f"runner/python/{name}": RUNNER.with_name(name)
    for name in ("run.py", "rules.py", "reading.py", "limits.py")
}
_LAYOUTS: Mapping[int, Layout] = {4: "NCTHW", 3: "NCHW", 2: "NCL", 1: "NC"}


def package(
    onnx_file: Path,
    out: Path,
    *,
    manifest: Mapping[str, Any],
    golden: tuple[Inputs, NDArray[np.float32]],
    accuracy: Mapping[str, Any],
    budgets: Sequence[Gate],
    name: str = "",
    chosen_because: str = "",
    licences: Mapping[str, str | Path] | None = None,
) -> Path:
    """Write the bundle of a file; return `out`. The same arguments give the same bytes.

    Budgets are recorded, not judged: `verify` and the bundle's self-test do that.

    Args:
        onnx_file: What the device will run.
        out: A folder, or a zip file when it ends in `.zip`; a bundle there is replaced in one step.
        manifest: Of the file's artefact, with lineage, facts and `data.preprocessing`.
        golden: Preprocessed real inputs (k, *shape) and this file's outputs; 16 items are kept.
        accuracy: Measured values by metric name and whatever else is known of them; the values
            of a `baseline` are needed only for budgets that compare.
        budgets: What the file must keep to on the device.
        name: What people call it; left out: the label of the file's artefact.
        chosen_because: Why this file was packaged and not another.
        licences: By part (`model`, `data`): an SPDX identifier, a text, or a file with the text.

    Raises:
        InputError: `out` is something else than a bundle, a budget cannot be judged on a device.
        ModelError: the file, the golden data and the manifest do not fit together.
    """
    facts = facts_of(onnx_file)
    texts = _all_licences(manifest, licences or {})
    check_licences(texts)
    recorded = recorded_values(accuracy, manifest.get("facts", {}))
    bounds = budgets_of(budgets, recorded, accuracy.get("baseline") or {})
    with published(out) as folder:
        copy_file(onnx_file, folder / MODEL)
        tolerance = write_golden(folder, folder / MODEL, facts, *golden)
        described = _manifest(folder, facts, manifest, accuracy, recorded, bounds, golden[1])
        described = replace(
            described,
            name=name or described.name,
            chosen_because=chosen_because,
            licences=write_licences(folder, texts),
        )
        if reason := contradiction(described, facts):
            raise ModelError(
                f"{onnx_file} does not fit its manifest: {reason}", hint="export it again"
            )
        (folder / "runner" / "python").mkdir(parents=True)
        for name, own in RUNNER_FILES.items():
            shutil.copyfile(own, folder / name)
        write_manifest(described, folder)
        (folder / "README.md").write_text(readme(described, golden=tolerance.num_items))
        write_sums(folder)
    return out


def _all_licences(
    manifest: Mapping[str, Any], given: Mapping[str, str | Path]
) -> dict[str, str | Path]:
    """Return the licences given, and the data's where the artefact knows it."""
    known = str(manifest["data"].get("licence") or "")
    return {**({"data": known} if known else {}), **given}


def _manifest(
    folder: Path,
    facts: OnnxFacts,
    source: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    recorded: Mapping[str, float],
    budgets: tuple[Budget, ...],
    outputs: NDArray[np.float32],
) -> Manifest:
    model = folder / MODEL
    preprocessing = stored_preprocessing(source["data"]["preprocessing"])
    values: Values = "probabilities" if _are_probabilities(outputs) else "logits"
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="bundle",
        name=str(source["label"]),
        created=str(source.get("created", "")),
        kdeploy=__version__,
        artifact=str(source["id"]),
        model=ModelFile(
            file=MODEL,
            format="onnx",
            sha256=file_sha256(model),
            size=file_bytes(model),
            opset=facts.opset,
            profile=str((source.get("parameters") or {}).get("profile", "")),
            is_quantized=facts.is_quantized,
        ),
        inputs=facts.inputs,
        outputs=(replace(facts.outputs[0], values=values), *facts.outputs[1:]),
        preprocessing=preprocessing,
        classes=preprocessing.classes,
        accuracy=accuracy,
        recorded={**recorded, "size": float(file_bytes(model))},
        budgets=budgets,
        chosen_because="",
        licences=(),
        machine=_machine(source.get("machine")),
        made_with={n: importlib.metadata.version(n) for n in ("onnxruntime", "numpy")},
        lineage=tuple(source.get("lineage", ())),
    )


def stored_preprocessing(stored: Mapping[str, Any]) -> StoredPreprocessing:
    """Return what a bundle says of its inputs.

    Raises:
        ModelError: the runner cannot make such inputs.
    """
    try:
        known = Preprocessing.from_dict(stored)
        layout = "NT" if known.is_tokens else _LAYOUTS[len(known.shape)]
        return StoredPreprocessing(layout=layout, **asdict(known))
    except TypeError as error:  # a key that the runner does not know
        raise ModelError(
            f"the artefact's preprocessing is not what the runner can do: {error}",
            hint="export the model again with this version",
        ) from None
    except KeyError:
        raise ModelError(
            f"the runner of a bundle makes no inputs of shape {list(stored['shape'])}",
            hint="leave `package` out; inputs are (channels, height, width), (channels, length), "
            "(channels, frames, height, width), (features,), (tokens,)",
        ) from None


def _are_probabilities(outputs: NDArray[np.float32]) -> bool:
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def _machine(stored: Any) -> Mapping[str, Any]:
    """Return what stays the same of the machine that the artefact was made on."""
    if isinstance(stored, Mapping):
        fields = dict(stored)
    else:
        here = fingerprint()
        fields = here.to_dict() if here.id == stored else {"id": str(stored or "unknown")}
    kept = ("id", "cpu", "architecture", "cores", "instruction_sets", "ram_bytes")
    return {key: fields[key] for key in kept if key in fields}
