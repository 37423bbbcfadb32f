"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kdeploy.data.load import DataReference
    from kdeploy.pipeline.single import Source

DATA_HELP = (
    "A dataset, `path.py:function`, either with its parameters as `arrays:train=x.npz,test=y.npz`"
    " or in YAML, as in a recipe."
)
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Out = Annotated[Path, typer.Option("--out", help="The folder for the results.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help=DATA_HELP, metavar="DATA"),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="What targets and outputs mean, e.g. `segmentation`; left out, classification.",
        metavar="TASK",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the files of the dataset are.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write events to OUT/tensorboard.")
]
CsvLog = Annotated[
    bool, typer.Option("--csv-log", help="Write a row an epoch to OUT/training.csv.")
]
Devices = Annotated[
    int | None,
    typer.Option("--devices", min=1, help="Processes a machine, one a device, under `torchrun`."),
]
NumNodes = Annotated[
    int | None,
    typer.Option("--num-nodes", min=1, help="Machines that train together, under `torchrun`."),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="safetensors, .pt or .pth, for a model that is no artefact."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="Of an ONNX file with open sizes: NAME=1,3,224,224[:dtype]."),
]
AsBuilt = Annotated[
    bool, typer.Option("--as-built", help="A model whose function gives it its weights.")
]
GitHubSummary = Annotated[
    bool,
    typer.Option(
        "--github-summary",
        help="Short markdown for CI, to the file that $GITHUB_STEP_SUMMARY names, else to stdout.",
    ),
]


def named_only(command: Callable[..., Any]) -> Callable[[], None]:
    """Return what stands for a command in the list of all: its flags are read when it is asked."""

    def listed() -> None: ...

    listed.__name__, listed.__doc__ = command.__name__, command.__doc__
    return listed


def data_reference(
    name: str | None, folder: Path | None, seed: int = 0, task: str | None = None
) -> DataReference | None:
    """Return the data that `--data`, `--data-dir` and `--task` name, None when they name none."""
    if name is None:
        return None
    from kdeploy.recipe.data_text import data_section
    from kdeploy.recipe.read import read_value
    from kdeploy.recipe.resolve import CLASSES, task_reference
    from kdeploy.recipe.resolve import data_reference as resolve

    given = {**data_section(name), **({"folder": str(folder)} if folder else {})}
    meant = task_reference(read_value(task)) if task else CLASSES
    return resolve(given, Path(), seed, task=meant)


def source_of(common: dict[str, Any]) -> Source:
    """Return what one stage starts from, of the arguments that `compress` and `export` share."""
    from kdeploy.pipeline.single import Source
    from kdeploy.recipe.read import read_value
    from kdeploy.registry import mapping

    return Source(
        reference=common["artifact"],
        weights=common["weights"],
        as_built=common["as_built"],
        args=with_inputs(
            common["artifact"],
            mapping(read_value(common["model_args"]), "--args"),
            common["inputs"],
        ),
        data=data_reference(common["data"], common["data_dir"], task=common["task"]),
    )


def with_inputs(reference: str, args: Any, inputs: Sequence[str] | None) -> Any:
    """Return the arguments of a model reference with what `--input` says of a file."""
    if not inputs:
        return args
    if not reference.startswith("onnx:"):
        from kdeploy.errors import RecipeError

        raise RecipeError(
            f"`--input` is for ONNX files from elsewhere, `{reference[:200]}` is none",
            hint="name the file as `onnx:FILE`, or leave `--input` out",
        )
    return {**args, "input": list(inputs)}
