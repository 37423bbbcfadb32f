"""`kdeploy verify`: prove a bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdeploy.cli.options import (
    Debug,
    Json,
)
from kdeploy.cli.result import Result


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder or a zip.")],
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=1, help="Seconds for its model; else by its budgets."),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Of its model, e.g. 2GB; else by budgets and size."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="PEM file of its maker's Ed25519 public key.")
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Refuse a bundle without a signature.")
    ] = False,
    minimum_release: Annotated[
        int, typer.Option("--minimum-release", min=0, help="Refuse an older bundle.")
    ] = 0,
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Prove a bundle on this machine: checksums, golden outputs, budgets."""
    from kdeploy.cli.output import out as console
    from kdeploy.cli.output import show_checks
    from kdeploy.package.signatures import Trust
    from kdeploy.package.verify import verify as verify_bundle
    from kdeploy.units import parse_quantity

    limit = None if memory_limit is None else int(parse_quantity(memory_limit)[0])
    trust = Trust(key=key, requires_signature=require_signature, minimum_release=minimum_release)
    result = verify_bundle(bundle, timeout_seconds=timeout, memory_bytes=limit, trust=trust)
    show_checks(console(is_json=json), result.checks)
    document = {"bundle": str(bundle), "passed": result.passed, "checks": result.checks}
    return Result(document, exit_code=0 if result.passed else 1)
