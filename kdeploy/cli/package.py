"""`kdeploy package`: the edge bundle of an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdeploy.cli.options import (
    AsBuilt,
    Data,
    DataDir,
    Debug,
    Inputs,
    Json,
    TaskOption,
    Weights,
    data_reference,
    with_inputs,
)
from kdeploy.cli.result import Result


def package(
    artifact: Annotated[str, typer.Argument(help="An artefact, exported or not.")],
    out: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .zip.")],
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="'peak_memory: <= 128MB'; repeat for more.")
    ] = None,
    emit: Annotated[
        list[str] | None,
        typer.Option(
            "--emit", help="triton, systemd, ...: NAME or NAME:key=value,...; repeat for more."
        ),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="PEM file of an Ed25519 private key.")
    ] = None,
    release: Annotated[
        int, typer.Option("--release", min=0, help="Number of this bundle; counts up.")
    ] = 0,
    fold_preprocessing: Annotated[
        bool, typer.Option("--fold-preprocessing", help="Let the file take pixels, and answer.")
    ] = False,
    fold_suppression: Annotated[
        bool, typer.Option("--fold-suppression", help="Of a detector: suppress boxes inside too.")
    ] = False,
    ask_index: Annotated[
        bool, typer.Option("--ask-index", help="Ask for digests that kdeploy does not know.")
    ] = False,
    weights: Weights = None,
    as_built: AsBuilt = False,
    inputs: Inputs = None,
    data: Data = None,
    data_dir: DataDir = None,
    task: TaskOption = None,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Make the edge bundle and prove it here."""
    from kdeploy.cli.given import check_model

    check_model(artifact)
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_checks
    from kdeploy.gate import parse_gates
    from kdeploy.package.emission import emissions_of_texts
    from kdeploy.package.folding import folding_of
    from kdeploy.package.signatures import Signing
    from kdeploy.pipeline.single import Source, package_one
    from kdeploy.progress.terminal import Terminal

    source = Source(
        reference=artifact,
        weights=weights,
        as_built=as_built,
        args=with_inputs(artifact, {}, inputs),
        data=data_reference(data, data_dir, task=task),
    )
    budgets = parse_gates(budget or [], where="--budget")
    signing = Signing(key=sign, release=release)
    folding = folding_of(fold_preprocessing, fold_suppression)
    emitted = emissions_of_texts(emit or [])
    result = package_one(
        source,
        budgets,
        out,
        Terminal(),
        signing,
        folding=folding,
        emitted=emitted,
        asks_index=ask_index,
    )
    show_checks(console(is_json=json), result.checks)
    return Result({"out": str(out), **result.to_dict()}, exit_code=0 if result.passed else 1)
