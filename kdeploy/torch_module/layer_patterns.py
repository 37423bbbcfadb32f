"""Names that patterns mean: `ignore: [stem.*, head]` of every technique that spares layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from kdeploy.errors import UnknownName


def matching(names: Collection[str], patterns: Iterable[str], *, where: str) -> list[str]:
    """Return the names that a name or pattern means, in their order.

    Raises:
        UnknownName: a pattern means none; the hint names the nearest.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName.among("layer", pattern, names, where=where)
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
