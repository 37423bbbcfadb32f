"""What a recipe asks for and can never get, told before any work: by facts in the decorators.

A training of hours shall not end at an exporter that takes no INT8, a library that is missing, a
runtime that opens none of the files, a gate on what nobody measures, or a bundle that cannot be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.data.contract import Dataset
from kdeploy.dynamic.run import check_data
from kdeploy.errors import ModelError, RecipeError, Unavailable, UnknownName
from kdeploy.export.io_signature import open_axes, open_axes_by_name
from kdeploy.export.run import check_that_it_runs
from kdeploy.measurement import METRICS
from kdeploy.onnx_graph.input_fitting import Declared, fitted_file
from kdeploy.package.budgets import check_budgets
from kdeploy.package.emission import check_emissions
from kdeploy.package.folding import FOLDS_INTO, check_folds
from kdeploy.package.kinds import formats, kind_of
from kdeploy.package.run import stored_preprocessing
from kdeploy.pipeline.building import declared_inputs, onnx_path
from kdeploy.pipeline.choose import target_configuration
from kdeploy.pipeline.onnx_files import is_quantized
from kdeploy.recipe.dynamic import DynamicStep
from kdeploy.recipe.resolve import Recipe, Step
from kdeploy.runtimes.files import suffixes
from kdeploy.runtimes.run import device_of, formats_of, named
from kdeploy.store.artifact import find_artifact
from kdeploy.system.temporary import temporary_folder
from kdeploy.tasks.contract import judged_as, metrics_for, task_of
from kdeploy.torch_module.named_inputs import tensors_of

FACTS = ("parameters", "macs", "size", "parity.max_abs", "parity.cosine")
"""What is known of every exported file."""


def check_ahead(recipe: Recipe, data: Dataset, stages: Sequence[str]) -> None:
    """Refuse what cannot come to its end, as far as these stages go.

    Raises:
        RecipeError, ModelError, InputError: the recipe asks for what cannot be.
        Unavailable: this machine lacks what the recipe needs.
    """
    if "export" in stages:
        for index, step in enumerate(recipe.export):
            _check_export(recipe, step, data, f"export[{index}]")
        if recipe.dynamic is not None:
            _check_dynamic(recipe, recipe.dynamic, data)
    if "bench" in stages:
        _check_runtimes(recipe)
        for gate in recipe.gates:
            reason = reason_unmeasured(recipe, data, gate.metric)
            if reason is not None:
                raise RecipeError(
                    f"gates: `{gate.text}` can never hold: {gate.metric} is not measured, because "
                    f"{reason}",
                    hint="change that, or leave the gate out",
                )
    if "package" in stages and recipe.budgets is not None:
        _check_package(recipe, data)


def made_by(recipe: Recipe) -> set[str]:
    """Return what the steps of the recipe make of the model, e.g. "int8", or it is already."""
    made = {str(m) for s in recipe.compress if (m := _fact(s, "makes"))}
    known = find_artifact(recipe.teacher.reference.build)
    file = onnx_path(recipe.teacher.reference)
    already = known.is_quantized if known else file is not None and is_quantized(file)
    return made | ({"int8"} if already else set())


def _fact(step: Step, name: str) -> object:
    return registry.find("compressor", step.technique).facts.get(name)


def _check_export(recipe: Recipe, step: Step, data: Dataset, where: str) -> None:
    facts = registry.find("exporter", step.technique).facts
    refused = set(facts.get("refuses") or ()) & made_by(recipe)
    if refused:
        steps = [s.technique for s in recipe.compress if _fact(s, "makes") in refused]
        by = f"`{steps[0]}` makes" if steps else "the teacher is"
        raise RecipeError(
            f"{where}: `{step.technique}` takes float models only, and {by} INT8; every model of "
            "the recipe is exported to every target",
            hint=f"leave `{step.technique}` out, or export the float model in a recipe of its own",
        )
    if recipe.teacher.is_file and "onnx" not in facts["source"]:
        raise RecipeError(
            f"{where}: `{step.technique}` is made of a torch model, and the teacher is a file",
            hint=f"leave `{step.technique}` out, or name the model that the file was made of",
        )
    axes = tuple(step.parameters.get("dynamic") or ())
    if axes:
        # It raises where items have no such axis; what it returns is for the export.
        example = tensors_of(data.preprocessing.example(2))
        if data.preprocessing.inputs:
            open_axes_by_name(axes, example)
        else:
            open_axes(axes, (example,))
    if axes and recipe.teacher.is_file:
        raise RecipeError(
            f"{where}: the sizes of the teacher, which is a file, are what they are",
            hint="leave `dynamic` out, or name the model that the file was made of",
        )
    check_that_it_runs(step.technique)


def _check_dynamic(recipe: Recipe, step: DynamicStep, data: Dataset) -> None:
    labels = ["teacher", *(["student"] if recipe.student is not None else [])]
    if recipe.distill is not None and recipe.distill.baseline:
        labels.append("baseline")
    seen: Counter[str] = Counter()
    for compression in recipe.compress:
        seen[compression.technique] += 1
        times = seen[compression.technique]
        labels.append(compression.technique + (f"-{times}" if times > 1 else ""))
    for name in step.names:
        # A file may also be called by its encoding.
        if name.partition(".")[0] not in labels:
            raise UnknownName.among("model", name, labels, where=f"dynamic.{step.technique}")
    if "model" in step.parameters:
        _check_exits(recipe, step, labels)
    if not recipe.teacher.is_file and not any(s.technique == "onnx" for s in recipe.export):
        raise RecipeError(
            "dynamic: its parts are ONNX files, and the recipe exports none",
            hint="add `- onnx: {}` to `export`, or leave `dynamic` out",
        )
    check_data(data, step.promise)


def _check_exits(recipe: Recipe, step: DynamicStep, labels: Sequence[str]) -> None:
    """Refuse exits that nothing trains, and those of a model that is made of other layers."""
    where, (name,), distill = f"dynamic.{step.technique}", step.names, recipe.distill
    scheme = None if distill is None else registry.find("scheme", distill.scheme_name)
    if name == "student" and (scheme is None or scheme.facts.get("student_layers") != "exits"):
        raise RecipeError(
            f"{where}: the student has no exits: its scheme is "
            f"`{distill.scheme_name if distill else 'none'}`",
            hint="`distill: {scheme: {self_exits: {exits: [layer1]}}}` trains them",
        )
    compressed = labels[labels.index("student") + 1 :] if "student" in labels else ()
    quantized = [s.technique for s in recipe.compress if "int8" in str(_fact(s, "makes"))]
    if name in compressed and name.partition("-")[0] in quantized:
        raise RecipeError(
            f"{where}: `{name}` is INT8, and exits are cut out of a float network",
            hint="name the float model: `exits: {model: student}`",
        )
    trained = () if distill is None else distill.scheme_parameters.get("exits", ())
    for layer in step.layers if name == "student" else ():
        if layer not in trained:
            raise UnknownName.among("exit", layer, trained, where=where)


def _formats(recipe: Recipe) -> set[str]:
    """Return the kinds of file and model that the recipe makes."""
    written = {suffixes()[_suffix(step)] for step in recipe.export}
    models = {"onnx"} if recipe.teacher.is_file else {"torch"}
    models |= {"torch"} if recipe.student is not None else set()
    return written | models


def _check_runtimes(recipe: Recipe) -> None:
    made, formats = made_by(recipe), _formats(recipe)
    for index, name in enumerate(recipe.bench.runtimes):
        facts, where = named(name)[0].facts, f"bench.runtimes[{index}]"
        if not formats_of(name) & formats:
            raise RecipeError(
                f"{where}: `{name}` opens {_listed(formats_of(name))}, and the recipe makes "
                f"{_listed(formats)}",
                hint=_how_to_make(formats_of(name)),
            )
        if facts.get("needs") and facts["needs"] not in made:
            makers = _listed(_makers(str(facts["needs"])))
            raise RecipeError(
                f"{where}: `{name}` runs models of {makers} alone, and the recipe has no such step",
                hint=f"leave `{name}` out, or add the step to `compress`",
            )
    reasons = {r: named(r)[0].load().unavailable() for r in recipe.bench.runtimes}
    # One that can run is enough: the others become rows that say why they are skipped.
    if all(reasons.values()):
        listed = "; ".join(f"`{name}`: {reason}" for name, reason in reasons.items())
        raise Unavailable(
            f"none of the runtimes to measure in can run here: {listed}",
            hint="kdeploy doctor; or stop before it: `--until export`",
        )


def _makers(what: str) -> list[str]:
    known = registry.techniques("compressor").items()
    return [name for name, technique in known if technique.facts.get("makes") == what]


def _how_to_make(formats: Iterable[str]) -> str:
    known = registry.techniques("exporter").items()
    able = [name for name, t in known if suffixes()[t.facts["suffix"]] in set(formats)]
    add = f"add {_listed(able)} to `export`, or " if able else ""
    return f"{add}leave the runtime out"


def reason_unmeasured(recipe: Recipe, data: Dataset, metric: str) -> str | None:
    """Return why a metric is not measured where gates are judged; None where it is, or may be."""
    configuration, needs = target_configuration(recipe.bench), METRICS[metric].needs
    if METRICS[metric].is_judged:
        return reason_unjudged(recipe, data, metric)
    if needs == "cuda" and device_of(configuration["runtime"]) != "cuda":
        return f"`{configuration['runtime']}` runs on {device_of(configuration['runtime'])}"
    if needs in ("server", "offline", "generate") and configuration["scenario"] != needs:
        return f"the scenario is `{configuration['scenario']}`, not `{needs}`"
    if needs == "dynamic" and recipe.dynamic is None:
        return "the recipe has no `dynamic`"
    makers = _makers(needs) if needs else []
    if makers and not {m for m in made_by(recipe) if m.startswith(needs)}:
        return f"the recipe has no step that makes such a model ({_listed(makers)})"
    return None


def reason_unjudged(recipe: Recipe, data: Dataset, metric: str) -> str | None:
    """Return why a metric of answers is not measured, None where it is."""
    if not recipe.bench.accuracy:
        return "`bench.accuracy` is false"
    task = task_of(data)
    name = judged_as(task)
    known = [*metrics_for(name), *metrics_for(name, family="agreement")]
    known += metrics_for(name, needs="divergences")
    if METRICS[metric].needs == "tokens":
        known += metrics_for(name, needs="log_likelihoods")
        if data.test.y.ndim != 2 or data.preprocessing.num_tokens is None:
            return "the labels are of whole items, not of tokens"
    if metric in known or task.name.endswith(":Task"):
        return None
    return f"the task is `{task.name}`, which has {_listed(known)} (`task:`)"


def _check_file_of_bundle(file: Path, given: Mapping[str, Declared], data: Dataset) -> None:
    """Refuse a file that no bundle can ship, once it has the sizes of the data."""
    with temporary_folder("fitted") as folder:
        fitted = folder / "model.onnx"
        said = fitted_file(file, fitted, data.preprocessing, given)
        kind_of("onnx").facts_of(fitted if said else file)


def _check_emitted(recipe: Recipe, forms: Sequence[str]) -> None:
    """Refuse what no exported file can bring: of several, one that it fits may be packaged."""
    refused = []
    for form in forms:
        try:
            check_emissions(recipe.emitted, form)
        except ModelError as error:
            refused.append(error)
    if len(refused) == len(forms):
        raise RecipeError(f"package.emit: {refused[0].message}", hint=refused[0].hint)


def _check_package(recipe: Recipe, data: Dataset) -> None:
    exports = [s for s in recipe.export if suffixes()[_suffix(s)] in formats()]
    file = onnx_path(recipe.teacher.reference)
    if not exports and file is None:
        raise RecipeError(
            f"package: a bundle ships {_listed(formats())}, and the recipe exports none",
            hint="add `- onnx: {}` to `export`, or leave `package` out",
        )
    are_open = exports and all(s.parameters.get("dynamic") for s in exports) and file is None
    if are_open and data.preprocessing.num_tokens is None:
        raise RecipeError(
            "package: the files have open sizes (`dynamic`), and a bundle takes one size of all "
            "but token ids",
            hint="add an `onnx` without `dynamic` to `export`, or leave `package` out",
        )
    if exports and file is None:
        _check_emitted(recipe, [suffixes()[_suffix(step)] for step in exports])
    if file is not None and recipe.student is None:
        _check_file_of_bundle(file, declared_inputs(recipe.teacher.reference), data)
    try:
        if recipe.folding is not None:
            form = next(iter(_formats_to_fold(exports, recipe)), "onnx")
            check_folds(form, data.preprocessing, _dtype(data))
        if not data.preprocessing.inputs:
            stored_preprocessing(data.preprocessing.to_dict())
    except ModelError as error:
        raise RecipeError(f"package: {error.message}", hint=error.hint) from None
    judged = [name for name, metric in METRICS.items() if metric.is_judged]
    known = [m for m in judged if reason_unmeasured(recipe, data, m) is None]
    of_teacher = [m for m in known if not m.startswith("agreement")]
    check_budgets(recipe.budgets or (), [*FACTS, *known], of_teacher)


def _dtype(data: Dataset) -> Any:
    """Return the type of stored items; of several inputs there is none."""
    return None if data.preprocessing.inputs else data.validation.x[:1].dtype


def _formats_to_fold(exports: Sequence[Step], recipe: Recipe) -> list[str]:
    """Return what can be packaged, first what folds; of a dynamic model that alone."""
    if recipe.dynamic is not None:
        return ["dynamic"]
    found = {suffixes()[_suffix(step)] for step in exports}
    return sorted(found, key=lambda form: (form not in FOLDS_INTO, form))


def _suffix(step: Step) -> str:
    return str(registry.find("exporter", step.technique).facts["suffix"])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
