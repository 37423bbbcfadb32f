"""`kdeploy.package` and `kdeploy.verify`: the bundle for the device, and its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdeploy.api import session
from kdeploy.api.models import source_of
from kdeploy.errors import GateFailed
from kdeploy.gate import parse_gates
from kdeploy.package.emission import emissions
from kdeploy.package.folding import folding_of
from kdeploy.package.signatures import Signing, Trust
from kdeploy.package.verify import VerifyResult
from kdeploy.package.verify import verify as verify_bundle
from kdeploy.pipeline.single import package_one
from kdeploy.recipe.sections import spelled_out
from kdeploy.units import parse_quantity


def package(
    model: Any,
    out: str | Path,
    *,
    budgets: Sequence[str] = (),
    data: Any = None,
    weights: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
    sign: str | Path | None = None,
    release: int = 0,
    ask_index: bool = False,
    fold_preprocessing: bool = False,
    fold_suppression: bool = False,
    emit: Sequence[str | Mapping[str, Any]] = (),
) -> VerifyResult:
    """Return the proof of a bundle that was made at `out`.

    Args:
        model: A file or model of another step, an nn.Module, a reference, an artefact, an ONNX
            file; a torch model is exported for the processor first.
        out: A folder, or a file that ends in `.zip`.
        budgets: What it must hold on this machine and proves on each, "peak_memory: <= 128MB".
        data: Of which its golden items come; left out, what the model was made with.
        weights: Of a reference: safetensors, or a state dict (`.pt`, `.pth`).
        args: Of a reference: keyword arguments of its function.
        sign: PEM file of an Ed25519 private key that signs it.
        release: Number of this bundle, which counts up; 0: none.
        ask_index: Ask the package index for digests of libraries that kdeploy does not know.
        fold_preprocessing: Let the file take bytes of pixels, and answer what the task reads.
        fold_suppression: Of a folded detector: leave worse boxes of one object out.
        emit: What it brings for the place that it goes to: names out of `kdeploy list emitter`, or
            `{name: {its parameters}}`.

    Raises:
        GateFailed: a check does not hold here; nothing was left at `out`.
    """
    source = source_of(model, data=data, weights=weights, args=args)
    gates = parse_gates(list(budgets), where="budgets")
    signing = Signing(key=None if sign is None else Path(sign), release=release)
    folding = folding_of(fold_preprocessing, fold_suppression)
    emitted = emissions([spelled_out(entry) for entry in emit], "emit")
    result = package_one(
        source,
        gates,
        Path(out),
        session.listener(),
        signing,
        folding=folding,
        emitted=emitted,
        asks_index=ask_index,
    )
    failed = [check for check in result.checks if not check["passed"]]
    if not result.passed:
        reasons = "; ".join(f"{check['check']}: {check.get('reason', '')}" for check in failed)
        raise GateFailed(
            f"the bundle does not hold here, and was not kept: {reasons}",
            hint="allow more (`budgets`), or compress further",
        )
    return result


def verify(
    bundle: str | Path,
    *,
    timeout_seconds: float | None = None,
    memory_limit: str | None = None,
    key: str | Path | None = None,
    require_signature: bool = False,
    minimum_release: int = 0,
) -> VerifyResult:
    """Return the verdict on a bundle, checked and run on this machine: `passed`, and each check.

    Args:
        bundle: A folder or a zip.
        timeout_seconds: That its model may take; left out, by its budgets.
        memory_limit: That its model may take, e.g. "2GB"; left out, by its budgets and size.
        key: PEM file of its maker's Ed25519 public key.
        require_signature: Whether a bundle without a signature is refused.
        minimum_release: An older bundle is refused.
    """
    limit = None if memory_limit is None else int(parse_quantity(memory_limit)[0])
    trust = Trust(
        key=None if key is None else Path(key),
        requires_signature=require_signature,
        minimum_release=minimum_release,
    )
    return verify_bundle(
        Path(bundle), timeout_seconds=timeout_seconds, memory_bytes=limit, trust=trust
    )
