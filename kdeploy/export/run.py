"""Export a model as a file that another program runs, and let no file out that differs from it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import DataError, KdeployError, ModelError, ParityFailed, Unavailable
from kdeploy.export.half_arithmetic import check_half_arithmetic
from kdeploy.export.opening import check_that_it_opens
from kdeploy.export.parity import Parity, check_parity
from kdeploy.export.parity_conditions import conditions, parity_of
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.registry import Technique, find, validate
from kdeploy.runtimes.run import named, this_machine
from kdeploy.store.transformers_models import tokenizer_files
from kdeploy.system.interruption import stop_if_asked
from kdeploy.torch_module.named_inputs import tensors_of
from kdeploy.untrusted.user_code import described

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported file and how far it is from the model; the worst over all inputs tried."""

    path: Path
    runtime: str
    """What ran the file."""
    max_abs: float
    """Largest error in standard deviations of the output."""
    bound: float
    """What `max_abs` was allowed to be."""
    cosine: float
    agreement: float | None
    """Of what the task reads in both; None where nothing can be read."""
    agreement_metric: str
    """What `agreement` is."""
    required_tolerance: float
    """Largest absolute error, in the output's own unit."""
    size_bytes: int
    """Of the file and all that was written beside it."""
    opset: int | None
    """Of an ONNX file."""


def export(
    model: nn.Module,
    target: str,
    parameters: Mapping[str, Any],
    data: Dataset,
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    artifact: Path | None = None,
) -> ExportResult:
    """Write `model` to `path`, run the file against the model, and keep it only if they agree.

    What an optimiser made of the file (`optimize`) is kept only so, too: else the file is written
    again without it, and a warning says so.

    Args:
        model: A torch model in evaluation mode, or a file; quantized torch models are re-encoded
            for the profile.
        target: The name of an exporter, e.g. `onnx`.
        parameters: Its parameters.
        data: Whose validation part the parity gate runs on; nothing is trained or chosen by it.
        path: The file; its folder is made. What is written beside it keeps its name.
        metadata: Properties to write into an ONNX file.
        artifact: The model's folder, out of which its tokenizer goes beside the file.

    Raises:
        UnknownName, RecipeError: no such exporter, or a parameter that it does not have.
        Unavailable: the target's library is missing, or nothing here runs the file.
        ParityFailed: the file computes something else; nothing was left at `path`.
        ModelError: the model cannot be exported or the file cannot be run.
    """
    technique = find("exporter", target)
    resolved = validate(technique.parameters, parameters, where=f"export.{target}")
    check_that_it_runs(target)
    if not len(data.validation):
        raise DataError(
            "the parity gate needs validation items", hint="set `data.validation_fraction`"
        )
    # Two rows: torch.export takes a batch of 1 for a constant size.
    rows = data.validation.x[[0, len(data.validation) - 1]]
    example = tensors_of(data.preprocessing.apply(rows))
    model = _for_profile(model.eval(), resolved)
    runtime, properties = technique.facts["runtime"], {**_of_data(data), **(metadata or {})}

    def write(parameters: Mapping[str, Any]) -> ExportResult:
        with kept_if_it_passes(path) as unproven:
            _copy_tokenizer(technique, artifact, unproven.parent)
            write_file(model, technique, parameters, example, unproven)
            opset = write_metadata(unproven, properties) if path.suffix == ".onnx" else None
            allowed = conditions(technique, parameters, model, data)
            # Before the gate opens it in this process, which it might end.
            if allowed["is_half"]:
                check_that_it_opens(unproven, runtime, name=path.name)
            parity = parity_of(unproven, runtime, model, data, **allowed)
            stop_if_asked()
            _check(parity, unproven, model, data, sizes=allowed["batch_sizes"], name=path.name)
            return result_of(parity, unproven, path, runtime, opset)

    try:
        return write(resolved)
    except ParityFailed as error:
        if resolved.get("optimize", "none") == "none":
            raise
        log.warning("%s; it is written again with `optimize: none`", error.message)
        return write({**resolved, "optimize": "none"})


def _check(
    parity: Parity,
    file: Path,
    model: nn.Module,
    data: Dataset,
    *,
    sizes: Sequence[int],
    name: str,
) -> None:
    """Refuse a file that is wrong here, or would be in float16; that says where numbers are lost.

    Raises:
        ParityFailed: with the cause, as far as one is seen.
    """
    is_right, is_onnx = parity.passed, file.suffix == ".onnx"
    if is_onnx:
        check_half_arithmetic(
            file, model, data, batch_sizes=sizes, name=name, is_hidden_here=is_right
        )
    if not is_right:
        check_parity(parity, name=name)


def _copy_tokenizer(technique: Technique, artifact: Path | None, folder: Path) -> None:
    if artifact is not None and technique.facts.get("tokenizer", False):
        for file in tokenizer_files(artifact):
            shutil.copyfile(file, folder / file.name)


def write_file(
    model: nn.Module,
    technique: Technique,
    parameters: Mapping[str, Any],
    example: Any,
    path: Path,
) -> None:
    """Write the file of an exporter, and nothing beside what belongs to it; it is not proven.

    Raises:
        ModelError: the model cannot be exported.
    """
    source = _source(model, technique, parameters, example, path.parent / "source")
    stop_if_asked()
    _written(technique, source, example, path, parameters)
    stop_if_asked()
    shutil.rmtree(path.parent / "source", ignore_errors=True)


def _written(
    technique: Technique, source: Any, example: Any, path: Path, parameters: Mapping[str, Any]
) -> None:
    """Write a file; what a library's converter raises at a file is an error of that file."""
    try:
        technique.load()(source, example, path, **parameters)
    except KdeployError:
        raise
    except Exception as error:
        if not isinstance(source, OnnxModel):
            raise
        raise ModelError(
            f"{technique.name} cannot be written of {source.path}: {described(error)}",
            hint="its converter does not know such a graph; --debug shows where it stopped",
        ) from error


def _of_data(data: Dataset) -> dict[str, str]:
    """Return the properties that say what an input and an output are."""
    known = data.preprocessing.to_dict()
    classes = json.dumps(known.pop("classes"))
    return {"kdeploy.classes": classes, "kdeploy.preprocessing": json.dumps(known)}


def bound_to(target: str) -> str:
    """Return what decides, beside model and parameters, what a file is: often nothing.

    A file of an exporter with the fact `portable=False` fits this machine and these versions.
    """
    if find("exporter", target).facts.get("portable", True):
        return ""
    here = this_machine()
    return json.dumps([here.id, here.driver, here.versions], sort_keys=True)


def check_that_it_runs(target: str) -> None:
    """Raise Unavailable, before any work, for files that nothing here could prove."""
    technique = find("exporter", target)
    runtime = technique.facts["runtime"]
    reason = named(runtime)[0].load().unavailable()
    if reason is not None:
        raise Unavailable(
            f"`{technique.name}` is proven by `{runtime}`, which cannot run here: {reason}",
            hint="kdeploy doctor",
        )


def _source(
    model: nn.Module, technique: Technique, resolved: Mapping[str, Any], example: Any, folder: Path
) -> nn.Module:
    """Return what the exporter takes: the model, or the ONNX file made of it in `folder`."""
    accepted = technique.facts["source"]
    if isinstance(model, OnnxModel):
        if "onnx" not in accepted:
            raise ModelError(
                f"`{technique.name}` is made of a torch model, and {model.path} is a file",
                hint="export the model that the file was made of",
            )
        return model
    if "torch" in accepted:
        return model
    first = find("exporter", "onnx")
    shared = {k: v for k, v in resolved.items() if k in {p.name for p in first.parameters}}
    folder.mkdir()
    file = folder / "model.onnx"
    first.load()(model, example, file, **validate(first.parameters, shared, where="export.onnx"))
    return OnnxModel(file)


def result_of(
    parity: Parity, unproven: Path, path: Path, runtime: str, opset: int | None
) -> ExportResult:
    """Return what there is to say of a file that has passed, and will move to `path`."""
    return ExportResult(
        path=path,
        runtime=runtime,
        max_abs=parity.max_abs,
        bound=parity.bound,
        cosine=parity.cosine,
        agreement=parity.agreement,
        agreement_metric=parity.agreement_metric,
        required_tolerance=parity.required_tolerance,
        size_bytes=sum(f.stat().st_size for f in unproven.parent.iterdir()),
        opset=opset,
    )


def _for_profile(model: nn.Module, resolved: Mapping[str, Any]) -> nn.Module:
    """Return a quantized model in the profile asked for: the reference rounds as the file does."""
    from kdeploy.quantization.pt2e import QuantizedModel

    profile = resolved.get("profile")
    if isinstance(model, QuantizedModel) and profile and profile != model.profile:
        return model.with_profile(profile)
    return model


def write_metadata(path: Path, metadata: Mapping[str, str]) -> int:
    """Add properties to an ONNX file and return its opset."""
    import onnx

    written = onnx.load(path, load_external_data=False)
    known = {p.key: p.value for p in written.metadata_props}
    onnx.helper.set_model_props(written, dict(sorted({**known, **metadata}.items())))
    onnx.save(written, path)
    return max(int(o.version) for o in written.opset_import if not o.domain)


@contextlib.contextmanager
def kept_if_it_passes(path: Path) -> Iterator[Path]:
    """Yield a path in a folder of its own; all in it moves beside `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}")
    folder.mkdir()
    try:
        yield folder / path.name
        beside = [f for f in folder.iterdir() if f.name != path.name]
        for file in (*beside, folder / path.name):
            file.replace(path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
