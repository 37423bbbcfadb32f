"""Make the edge bundle: one folder or zip that a device can run, test and check without kdeploy."""

from __future__ import annotations

import importlib.metadata
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
from kdeploy.package.budgets import budgets_of, recorded_values
from kdeploy.package.checksums import write_sums
from kdeploy.package.contract import BundleKind, FileFacts
from kdeploy.package.emission import Bundle, Emission, check_emissions, emit
from kdeploy.package.golden import Given, named, run_items, write_golden
from kdeploy.package.kinds import kind_of, technique_of, write_runner
from kdeploy.package.licences import check_licences, write_licences
from kdeploy.package.manifest import (
    SCHEMA_VERSION,
    Budget,
    InputPort,
    InputPreprocessing,
    Layout,
    Manifest,
    ModelFile,
    State,
    StoredPreprocessing,
    Values,
    write_manifest,
)
from kdeploy.package.ports import contradiction
from kdeploy.package.publish import published
from kdeploy.package.readme import readme
from kdeploy.package.requirements import NAME as REQUIREMENTS
from kdeploy.package.requirements import requirements
from kdeploy.package.runner.python import parts
from kdeploy.package.signatures import Signing, check_signing, sign
from kdeploy.preprocessing import Preprocessing
from kdeploy.runtimes.files import format_of
from kdeploy.runtimes.state import carried
from kdeploy.store.artifact import file_sha256
from kdeploy.tasks.contract import has_class_rows
from kdeploy.tensor_info import TensorInfo

UNSIGNED = Signing()
_LAYOUTS: Mapping[int, Layout] = {4: "NCTHW", 3: "NCHW", 2: "NCL", 1: "NC"}


def package(
    file: Path,
    out: Path,
    *,
    manifest: Mapping[str, Any],
    golden: tuple[Given, Given],
    accuracy: Mapping[str, Any],
    budgets: Sequence[Gate],
    name: str = "",
    chosen_because: str = "",
    licences: Mapping[str, str | Path] | None = None,
    signing: Signing = UNSIGNED,
    asks_index: bool = False,
    emitted: Sequence[Emission] = (),
) -> Path:
    """Write the bundle of a file; return `out`. The same arguments give the same bytes.

    Budgets are recorded, not judged: `verify` and the bundle's self-test do that.

    Args:
        file: What the device will run, of a format that a kind of bundle ships.
        out: A folder, or a zip file when it ends in `.zip`; a bundle there is replaced in one step.
        manifest: Of the file's artefact, with lineage, facts and, where the file takes items of
            data, `data.preprocessing`.
        golden: Preprocessed real inputs (k, *shape) and this file's outputs; 16 items are kept. Of
            several, mappings by name; without those that the file feeds itself, its state.
        accuracy: Measured values by metric name and whatever else is known of them; the values
            of a `baseline` are needed only for budgets that compare.
        budgets: What the file must keep to on the device.
        name: What people call it; left out: the label of the file's artefact.
        chosen_because: Why this file was packaged and not another.
        signing: The key that signs it, and the number of its release.
        asks_index: Whether the package index is asked for digests that kdeploy does not know.
        emitted: What it brings for the place that it goes to.
        licences: By part (`model`, `data`): an SPDX identifier, a text, or a file with the text.

    Raises:
        InputError: `out` is something else than a bundle, a budget cannot be judged on a device.
        ModelError: the file, the golden data and the manifest do not fit together.
    """
    check_signing(signing)
    form = format_of(file)
    check_emissions(emitted, form)
    kind = kind_of(form)
    facts = kind.facts_of(file)
    texts = _all_licences(manifest, licences or {})
    check_licences(texts)
    recorded = recorded_values(accuracy, manifest.get("facts", {}))
    bounds = budgets_of(budgets, recorded, accuracy.get("baseline") or {})
    with published(out) as folder:
        model = kind.copy(file, folder)
        described = _manifest(model, form, facts, manifest, accuracy, recorded, bounds, golden[1])
        if reason := contradiction(described, facts):
            raise ModelError(f"{file} does not fit its manifest: {reason}", hint="export it again")
        tolerance = write_golden(
            folder,
            model,
            kind,
            facts,
            *golden,
            state=described.state,
            has_classes=described.outputs[0].values != "",
        )
        known = technique_of(form).facts
        has_native = bool(known.get("native"))
        described = replace(
            described,
            name=name or described.name,
            chosen_because=chosen_because,
            release=signing.release,
            dynamic=_dynamic(model, kind, facts, folder),
            licences=write_licences(folder, texts, known["libraries"], has_native=has_native),
        )
        write_runner(folder, form, str(described.task.get("name", "")))
        needed = requirements(known["libraries"], asks_index=asks_index)
        (folder / REQUIREMENTS).write_text(needed)
        write_manifest(described, folder)
        emit(emitted, Bundle(folder=folder, manifest=described), folder)
        text = readme(
            described,
            golden=tolerance.num_items,
            has_native=has_native,
            emitted=[one.name for one in emitted],
        )
        (folder / "README.md").write_text(text)
        write_sums(folder)
        if signing.key is not None:
            sign(folder, signing.key)
    return out


def _dynamic(model: Path, kind: BundleKind, facts: FileFacts, folder: Path) -> Mapping[str, Any]:
    """Return what a dynamic model says, and which part answers each of the golden items."""
    if facts.dynamic is None:
        return {}
    (taken,) = facts.inputs
    run = kind.open_model(str(model), 1)
    with np.load(folder / "golden" / "inputs.npz") as stored:
        rows = [{taken.name: row[None]} for row in stored[stored.files[0]]]
    return {**facts.dynamic, "golden": parts.taken(run, rows)}


def golden_of(file: Path, inputs: Given) -> tuple[Given, Given]:
    """Return preprocessed items and all that a file answers to them, one after the other.

    Where the sizes of its answers differ from item to item, it is the first item alone.

    Raises:
        ModelError: no kind of bundle ships such a file, or it cannot be run.
    """
    kind = kind_of(format_of(file))
    facts = kind.facts_of(file)
    state = _state(facts)
    fed = {s.input for s in state}
    inputs = _as_prompts(file, inputs)
    arrays = named(inputs, [p for p in facts.inputs if p.name not in fed], "inputs")
    try:
        outputs = run_items(kind.open_model(str(file), 1), facts, arrays, state)
    except Exception as error:  # the libraries' errors have no common base
        raise ModelError(
            f"{file} cannot run the golden inputs: {str(error)[:300]}",
            hint="the data's shape and type and the file's inputs must fit",
        ) from error
    count = len(next(iter(outputs.values())))
    return {name: array[:count] for name, array in arrays.items()}, outputs


def _prompt_tokens(form: str) -> int:
    """Return how many tokens a golden prompt has; 0 of kinds that take items of data."""
    return int(technique_of(form).facts.get("prompt_tokens", 0))


def _as_prompts(file: Path, inputs: Given) -> Given:
    """Return what is given to a file that takes prompts: the first tokens of each item."""
    length = _prompt_tokens(format_of(file))
    if not length or not isinstance(inputs, np.ndarray) or inputs.ndim != 2:
        return inputs
    prompts: Given = inputs[:, np.arange(length) % inputs.shape[1]].astype(np.int64)
    return prompts


def _all_licences(
    manifest: Mapping[str, Any], given: Mapping[str, str | Path]
) -> dict[str, str | Path]:
    """Return the licences given, and the data's where the artefact knows it."""
    known = str((manifest.get("data") or {}).get("licence") or "")
    return {**({"data": known} if known else {}), **given}


def _manifest(
    model: Path,
    form: str,
    facts: FileFacts,
    source: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    recorded: Mapping[str, float],
    budgets: tuple[Budget, ...],
    outputs: Given,
) -> Manifest:
    stored = (source.get("data") or {}).get("preprocessing")
    state = _state(facts)
    is_single = len(facts.inputs) - len(state) == 1
    takes_prompts = _prompt_tokens(form) > 0
    is_single &= not takes_prompts
    several = {} if is_single or takes_prompts or not stored else _of_inputs(stored, facts)
    preprocessing = stored_preprocessing(stored) if stored and is_single else None
    if preprocessing is not None and facts.is_folded:
        preprocessing = replace(preprocessing, layout="NHWC", folded=True)
    task = (source.get("data") or {}).get("task") or {}
    # Classes of pixels are no classes of the item.
    is_of_data = preprocessing is not None or bool(several)
    has_classes = is_of_data and (not task or has_class_rows(str(task["name"])))
    has_classes |= takes_prompts  # the next token is one
    values = _values(named(outputs, facts.outputs, "outputs"), has_items=has_classes)
    size = sum(part.stat().st_size for part in model.parent.glob("model.*"))
    libraries = technique_of(form).facts["libraries"]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind="bundle",
        name=str(source["label"]),
        created=str(source.get("created", "")),
        kdeploy=__version__,
        artifact=str(source["id"]),
        model=ModelFile(
            file=model.name,
            format=form,
            sha256=file_sha256(model),
            size=size,
            opset=facts.opset,
            profile=str((source.get("parameters") or {}).get("profile", "")),
            is_quantized=facts.is_quantized,
        ),
        inputs=tuple(
            InputPort(**asdict(port), preprocessing=several.get(port.name)) for port in facts.inputs
        ),
        outputs=(replace(facts.outputs[0], values=values), *facts.outputs[1:]),
        preprocessing=preprocessing,
        classes=tuple(stored["classes"]) if stored and is_of_data else (),
        accuracy=accuracy,
        recorded={**recorded, "size": float(size)},
        budgets=budgets,
        chosen_because="",
        licences=(),
        machine=_machine(source.get("machine")),
        made_with={n: importlib.metadata.version(n) for n in (*libraries, "numpy")},
        lineage=tuple(source.get("lineage", ())),
        state=state,
        task=task,
    )


def _of_inputs(stored: Mapping[str, Any], facts: FileFacts) -> dict[str, InputPreprocessing]:
    """Return how each of several inputs is made of the data's; nothing where they have others.

    Raises:
        ModelError: the data know several inputs, and the file takes others.
    """
    known = Preprocessing.from_dict(stored).inputs
    fed = {state.input for state in _state(facts)}
    taken = {port.name for port in facts.inputs} - fed
    if known and taken != set(known):
        raise ModelError(
            f"the file takes {', '.join(sorted(taken))}, and the data have the inputs "
            f"{', '.join(sorted(known))}",
            hint="package the file with the data that it was made with",
        )
    return {
        name: InputPreprocessing(
            scale=one.scale, mean=one.mean, std=one.std, vocabulary=one.vocabulary
        )
        for name, one in known.items()
    }


def stored_preprocessing(stored: Mapping[str, Any]) -> StoredPreprocessing:
    """Return what a bundle says of its inputs.

    Raises:
        ModelError: the runner cannot make such inputs.
    """
    try:
        known = Preprocessing.from_dict(stored)
        layout = "NT" if known.is_tokens else _LAYOUTS[len(known.shape)]
        fields = asdict(known)
        del fields["inputs"]
        return StoredPreprocessing(layout=layout, **fields)
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


def _state(facts: FileFacts) -> tuple[State, ...]:
    ends = (
        [TensorInfo(name=p.name, shape=p.shape, dtype=p.type) for p in ports]
        for ports in (facts.inputs, facts.outputs)
    )
    return tuple(State(input=one, output=other) for one, other in carried(*ends).items())


def _values(outputs: Mapping[str, NDArray[Any]], *, has_items: bool) -> Values:
    """Return what the first output is: scores of classes, where there is no other output."""
    first = next(iter(outputs.values()))
    if not has_items or len(outputs) > 1 or first.ndim not in (2, 3) or first.shape[-1] == 1:
        return ""
    is_one = (first >= 0).all() and np.allclose(first.sum(axis=-1), 1, atol=1e-3)
    return "probabilities" if is_one else "logits"


def _machine(stored: Any) -> Mapping[str, Any]:
    """Return what stays the same of the machine that the artefact was made on."""
    if isinstance(stored, Mapping):
        fields = dict(stored)
    else:
        here = fingerprint()
        fields = here.to_dict() if here.id == stored else {"id": str(stored or "unknown")}
    kept = ("id", "cpu", "architecture", "cores", "instruction_sets", "ram_bytes")
    return {key: fields[key] for key in kept if key in fields}
