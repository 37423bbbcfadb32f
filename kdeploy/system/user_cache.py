"""The user's cache folder: what took long to get and may be thrown away."""

from __future__ import annotations

from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the user's cache folder for `name`; it need not exist. $XDG_CACHE_HOME moves it."""
    import pooch  # type: ignore[import-untyped]

    return Path(pooch.os_cache("kdeploy")) / name
