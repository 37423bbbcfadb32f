"""A cascade: a small model answers what it is sure of, a larger one answers the rest.

No training: any classifiers of the same classes. Mean time is c1 + (1 - p) c2, better than c2 alone
where the share p of early answers is above c1 / c2; what goes on takes c1 + c2.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy.dynamic.contract import DynamicContext, dynamic
from kdeploy.errors import ModelError, UnknownName
from kdeploy.onnx_graph.checks import copy_file, files_beside, read_onnx
from kdeploy.onnx_graph.facts import inputs_of, outputs_of
from kdeploy.runtimes.dynamic_file import MOST_PARTS, Part, part_paths
from kdeploy.store.artifact import file_sha256


@dynamic(paper="arXiv:2012.01988")
def cascade(
    context: DynamicContext, path: Path, *, parts: tuple[str, ...] = ("student", "teacher")
) -> tuple[Part, ...]:
    """Copy the files of the models beside `path`; return them as parts.

    Args:
        context: What was exported.
        path: Of the dynamic model.
        parts: Models by their labels, the smallest first: each answers what those before it leave.

    Raises:
        UnknownName: no file is called so.
        ModelError: there are too few, or they do not take the same and give the same classes.
    """
    if not 2 <= len(set(parts)) == len(parts) <= MOST_PARTS:
        raise ModelError(
            f"a cascade of {', '.join(parts) or 'nothing'} is none: it has 2 to {MOST_PARTS} "
            "different models",
            hint="name them, the smallest first: `cascade: [student, teacher]`",
        )
    for name in parts:
        if name not in context.files:
            raise UnknownName.among("file to make a cascade of", name, context.files)
    sources = [context.files[name] for name in parts]
    _check_alike(sources)
    taken = inputs_of(sources[0])[0].name
    made = []
    for label, source, target in zip(parts, sources, part_paths(path, len(parts)), strict=True):
        copy_file(source, target)
        made.append(
            Part(
                label=label,
                sha256=file_sha256(target),
                takes={inputs_of(target)[0].name: taken},
                logits=outputs_of(target)[0].name,
            )
        )
    return tuple(made)


def _check_alike(sources: list[Path]) -> None:
    for source in sources:
        if files_beside(read_onnx(source)):
            raise ModelError(
                f"{source} keeps its weights in a file beside it, and a part is one file",
                hint="models of less than 2 GB can be saved as one file",
            )
        taken, given = inputs_of(source), outputs_of(source)
        if len(taken) != 1 or len(given) != 1 or len(given[0].shape) != 2:
            raise ModelError(
                f"{source} takes {', '.join(map(str, taken))} and gives "
                f"{', '.join(map(str, given))}",
                hint="a cascade is made of classifiers: one input, logits (batch, classes)",
            )
    first = sources[0]
    for other in sources[1:]:
        for ends in (inputs_of, outputs_of):
            one, two = (ends(file)[0] for file in (first, other))
            if (one.shape[1:], one.dtype) != (two.shape[1:], two.dtype):
                raise ModelError(
                    f"{first.name} has {one}, and {other.name} has {two}",
                    hint="the models of a cascade take the same items and know the same classes",
                )
