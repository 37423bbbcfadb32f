"""Where downloads and decoded images are kept between runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kdeploy.errors import Unavailable
from kdeploy.system.user_cache import cache_folder

__all__ = ["TIMEOUT_SECONDS", "cache_folder", "downloaded", "no_room"]

TIMEOUT_SECONDS = 20


def downloaded(url: str, *, sha256: str | None, folder: Path) -> Path:
    """Return the file of `url` in `folder`, downloaded unless it is there already.

    Args:
        url: The file's name is its last part.
        sha256: Of the contents; None where no one has published it.
        folder: It is made where it is missing.

    Raises:
        OSError: there is no connection, or no answer in time.
        ValueError: the contents do not have the checksum.
    """
    pooch = _pooch()
    return Path(
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}" if sha256 else None,
            path=folder,
            fname=url.rsplit("/", 1)[-1],
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS),
        )
    )


def no_room(folder: Path, error: OSError) -> Unavailable:
    """Return the error for a cache that cannot be written."""
    return Unavailable(
        f"cannot write to the cache {folder}: {error.strerror or error}",
        hint="make room there, or point $XDG_CACHE_HOME at a folder that can be written",
    )


def _pooch() -> Any:
    import pooch  # type: ignore[import-untyped]

    pooch.get_logger().setLevel(logging.WARNING)
    return pooch
