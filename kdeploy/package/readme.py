"""The README of a bundle: how to run it, how to test it, what it costs, where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdeploy.measurement import METRICS
from kdeploy.package.manifest import Budget, InputPort, Manifest, StoredPreprocessing
from kdeploy.registry import find
from kdeploy.units import format_quantity

_TEXT = """\
# {name}

{what}

## Run it

    pip install -r requirements.txt
    pip install pillow
{commands}

It works from any folder; needs Python 3.9 or later, and Pillow for image files only. Other versions
than the ones of `requirements.txt` may do (`pip install numpy {libraries}`): the self-test tells.
{given}
Made and tested with {made_with}.
{native}{emitted}
## Test it on this device

    python runner/python/run.py --self-test

Checksums, then loading, then the outputs of {golden} recorded items, then peak memory and latency
(one item at a time) against the budgets. The exit code is 0 only if all hold. `sha256sum -c
SHA256SUMS` checks the files alone. `kdeploy verify` on a computer with kdeploy does the same with
its own copy of the runner, and does not trust this one.

## What it costs

{costs}

Measured on: {machine}. On another device the self-test measures again.

### Budgets

{budgets}

## What it takes and gives

{ports}

{inputs}

Classes: {classes}.

## Where it comes from

{lineage}

{because}

## Licences

{licences}

Integrity is what the checksums prove, not origin: compare the checksum of `SHA256SUMS` itself with
the one that the maker of this bundle tells you.
"""


_NATIVE = """
Without Python: the same as a program in C++, which opens `libonnxruntime.so` when it starts.

    cmake -S runner/cpp -B build && cmake --build build
    build/bundle_runner --self-test
    build/bundle_runner --json {given}
"""


def readme(
    manifest: Manifest, *, golden: int, has_native: bool = False, emitted: Sequence[str] = ()
) -> str:
    """Return the text, with the numbers of the manifest.

    Args:
        manifest: Of the bundle.
        golden: How many items are recorded.
        has_native: Whether it holds a runner without Python.
        emitted: The folders in `deploy/`.
    """
    libraries = " ".join(name for name in manifest.made_with if name != "numpy")
    text = _TEXT.format(
        name=manifest.name,
        what=_what(manifest),
        libraries=libraries,
        commands=_commands(manifest),
        given=_given(manifest),
        made_with=", ".join(f"{k} {v}" for k, v in manifest.made_with.items()),
        native=_NATIVE.format(given=_example(manifest)) if has_native else "",
        emitted=_emitted(emitted),
        golden=golden,
        costs=_costs(manifest),
        machine=_machine(manifest.machine),
        budgets=_budgets(manifest.budgets),
        ports=_ports(manifest),
        inputs=_inputs(manifest),
        classes=", ".join(manifest.classes) or "numbered, without names",
        lineage=_lineage(manifest.lineage),
        because=f"Why this file: {manifest.chosen_because}" if manifest.chosen_because else "",
        licences="\n".join(
            f"- {x.part}: {x.identifier} ([{x.file}]({x.file}))" for x in manifest.licences
        ),
    )
    return text.replace("\n\n\n", "\n\n")


def _emitted(names: Sequence[str]) -> str:
    if not names:
        return ""
    rows = [(f"`deploy/{name}/`", find("emitter", name).summary) for name in names]
    return f"\nFor the place that it goes to:\n\n{_table(('folder', 'what'), rows)}\n"


def _commands(manifest: Manifest) -> str:
    if manifest.preprocessing is None:
        return "    python runner/python/run.py items.npz"
    return (
        "    python runner/python/run.py photo.png\n"
        "    python runner/python/run.py --top 3 --json items.npy"
    )


def _example(manifest: Manifest) -> str:
    return "items.npz" if manifest.preprocessing is None else "items.npy"


def _given(manifest: Manifest) -> str:
    form = manifest.preprocessing
    if form is None:
        return (
            "A `.npz` file holds an array for each input, by its name below, as the model takes it."
            if not any(port.preprocessing for port in manifest.inputs)
            else "A `.npz` file holds an array for each input, by its name below, as the data set "
            "stores\nit; with `--preprocessed` as the model takes it."
        )
    if form.folded:
        sizes = ["any" if size == 0 else size for size in form.pixel_shape]
        return (
            "A `.npy` file\nholds pixels, uint8 of shape "
            f"({_sizes(sizes)}) or (N, ...): height, width, channels."
        )
    return (
        "A `.npy` file\nholds items as the data set stores them, of shape "
        f"({_sizes(form.shape)}) or (N, ...), and is scaled like\nan image is; with "
        "`--preprocessed` it holds what the model takes."
    )


def _sizes(shape: Iterable[object]) -> str:
    return ", ".join(map(str, shape))


def _what(manifest: Manifest) -> str:
    kind = "quantized (INT8)" if manifest.model.is_quantized else "floating-point"
    first, model = manifest.outputs[0], manifest.model
    what = f"classifier of {first.shape[-1]} classes" if first.values else "model"
    form = f"ONNX, opset {model.opset}" if model.format == "onnx" else model.format
    return (
        f"A {kind} {what}, "
        f"`{model.file}` ({form}), packaged by kdeploy "
        f"{manifest.kdeploy} from artefact {manifest.artifact}."
    )


def _costs(manifest: Manifest) -> str:
    known = {**manifest.recorded, **manifest.accuracy}
    baseline = known.pop("baseline", None) or {}
    rows = [("size of the file", format_quantity(manifest.model.size, "B"))]
    rows += [(name, _shown(name, value)) for name, value in known.items() if name != "size"]
    if "latency.p50" not in known:
        rows.append(("latency.p50", "not measured before: the self-test tells"))
    rows += [(f"{name} of the baseline", _shown(name, value)) for name, value in baseline.items()]
    return _table(("what", "value"), rows)


def _shown(name: str, value: Any) -> str:
    if name in METRICS:
        return format_quantity(value, METRICS[name].unit)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _machine(machine: Mapping[str, Any]) -> str:
    parts = [machine.get("cpu"), machine.get("architecture"), *machine.get("instruction_sets", ())]
    if "cores" in machine:
        parts.append(f"{machine['cores']} cores")
    if machine.get("ram_bytes"):
        parts.append(f"{format_quantity(machine['ram_bytes'], 'B')} of memory")
    return ", ".join(str(p) for p in parts if p) + f" (machine {machine.get('id')})"


def _budgets(budgets: tuple[Budget, ...]) -> str:
    if not budgets:
        return "None were set: the self-test reports memory and latency without judging them."
    where = {"device": "by the self-test on the device", "recorded": "on the value recorded above"}
    return _table(("budget", "judged"), [(f"`{b.gate}`", where[b.judged]) for b in budgets])


def _ports(manifest: Manifest) -> str:
    ports = [("input", p) for p in manifest.inputs] + [("output", p) for p in manifest.outputs]
    rows = [(w, f"`{p.name}`", str(list(p.shape)), p.type, p.values) for w, p in ports]
    return _table(("", "name", "shape", "type", "values"), rows)


def _inputs(manifest: Manifest) -> str:
    form = manifest.preprocessing
    states = "".join(
        f"\n\n`{s.output}` is the `{s.input}` of the next call; a stream begins with zeros."
        for s in manifest.state
    )
    told = "".join(_of_one_of_several(port) for port in manifest.inputs)
    if told:
        return f"Items are given as the data set stores them.{told}{states}"
    if form is None:
        return f"Inputs are given as they are listed: nothing is done to them.{states}"
    return _preprocessing(form, manifest.inputs[0]) + states


def _of_one_of_several(port: InputPort) -> str:
    form = port.preprocessing
    if form is None:
        return ""
    if form.vocabulary:
        return f"\n- `{port.name}`: integers from 0 to {form.vocabulary - 1}, as they are."
    return (
        f"\n- `{port.name}`: every value x becomes (x * {form.scale:.6g} - mean) / std, per "
        f"channel, with mean {_numbers(form.mean)} and std {_numbers(form.std)}."
    )


def _preprocessing(form: StoredPreprocessing, port: InputPort) -> str:
    if form.layout == "NT":
        count = f"{form.shape[0]} token ids"
        if isinstance(port.shape[-1], str):
            count = f"any number of token ids ({form.shape[0]} in the data)"
        return (
            f"An item is {count}, integers from 0 to {form.vocabulary - 1}, as the data set's "
            "tokenizer makes them; nothing is done to them."
        )
    if form.folded:
        ground = ", ".join(map(str, form.background))
        opaque = f"laid on ({ground}) where it is transparent, " if ground else ""
        return (
            f"An image is turned upright (EXIF), {opaque}converted to "
            f"{_colour(form)} and given as it is. The file itself does the rest: an image is "
            f"{_size(form)},\nevery value x becomes (x * {form.scale:.6g} - mean) / std, "
            f"per channel, with mean {_numbers(form.mean)}\nand std {_numbers(form.std)}; "
            "and its outputs are decoded."
        )
    return (
        f"An image is {_image(form)}. Then every value x becomes (x * {form.scale:.6g} - mean) / "
        f"std, per channel, with\nmean {_numbers(form.mean)} and std {_numbers(form.std)}."
    )


def _image(form: StoredPreprocessing) -> str:
    if form.layout not in ("NCHW", "NHWC") or form.shape[0] not in (1, 3):
        return "not what this model takes: give it arrays"
    ground = ", ".join(map(str, form.background))
    opaque = f"laid on ({ground}) where it is transparent, " if ground else ""
    size = f"{_size(form)}, in channels-first order"
    return f"turned upright (EXIF), {opaque}converted to {_colour(form)}, {size}"


def _colour(form: StoredPreprocessing) -> str:
    return "grey" if form.shape[0] == 1 else "RGB"


def _size(form: StoredPreprocessing) -> str:
    size = f"{form.shape[2]} x {form.shape[1]} pixels"
    how = f"resized to {size} (Pillow, bilinear)" if form.resize else f"expected to have {size}"
    bars = ", its own shape kept between bars of 114" if form.resize == "letterbox" else ""
    return how + bars


def _lineage(lineage: tuple[Mapping[str, Any], ...]) -> str:
    rows = [
        (str(i), *(str(one.get(key, "")) for key in ("stage", "technique", "label", "id")))
        for i, one in enumerate(lineage, start=1)
    ]
    return _table(("step", "stage", "technique", "label", "artefact"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in x)} |" for x in lines)


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{v:.6g}' for v in values)})"
