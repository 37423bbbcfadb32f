"""Find the image files of a folder; every file that is passed over is told, with the reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdeploy.errors import DataError

# Written out rather than asked of Pillow, whose plugins also claim .pdf, .mpg, .hdf and others.
ENDINGS = frozenset(
    f".{name}"
    for names in (
        "apng avif bmp dib gif ico j2c j2k jfi jfif jif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm pcx",
        "pgm png pnm ppm qoi sgi tga tif tiff webp",
    )
    for name in names.split()
)
SENTENCES = 5
"""So many files are named one by one; of the others the number and the reasons are told."""
HIDDEN = "hidden"
NO_IMAGE = "its ending is not that of an image"
NOWHERE = "a link that leads nowhere"
READ_ALREADY = "a link to what is read already"
NO_FILE = "not a regular file"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file or folder that was passed over."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder holds."""

    images: tuple[Path, ...]
    """In order."""
    left_out: tuple[LeftOut, ...]


def images_in(folder: Path) -> Found:
    """Return the image files at any depth of a folder, and what was passed over.

    Links are followed, each folder and each file once: the ways that lead to it without a link
    come first.

    Raises:
        DataError: a folder in it cannot be opened.
    """
    images: list[Path] = []
    links: list[Path] = []
    left_out: list[LeftOut] = []
    open_folders, linked_folders, known = [folder], list[Path](), set[str]()
    while open_folders or linked_folders:
        here = open_folders.pop() if open_folders else linked_folders.pop(0)
        real = os.path.realpath(here)
        if real in known:
            left_out.append(LeftOut(path=here, reason=READ_ALREADY))
            continue
        known.add(real)
        for entry in _entries(here):
            path = Path(entry.path)
            reason = _reason(entry)
            if reason:
                left_out.append(LeftOut(path=path, reason=reason))
            elif entry.is_dir():
                (linked_folders if entry.is_symlink() else open_folders).append(path)
            else:
                (links if entry.is_symlink() else images).append(path)
    images, twice = _each_once(images, links)
    return Found(images=tuple(sorted(images)), left_out=(*left_out, *twice))


def beside_folders(root: Path) -> list[LeftOut]:
    """Return what lies in a folder of class folders without being one."""
    return [
        LeftOut(path=Path(entry.path), reason=_reason_at_top(entry))
        for entry in _entries(root)
        if entry.name.startswith(".") or not Path(entry.path).is_dir()
    ]


def sentences(left_out: Sequence[LeftOut], where: Path) -> list[str]:
    """Return a sentence for each of the first files passed over, and one for all others."""
    shown = [f"left out: {one.path} ({_with_contents(one)})" for one in left_out[:SENTENCES]]
    rest = Counter(one.reason for one in left_out[SENTENCES:])
    if not rest:
        return shown
    reasons = "; ".join(f"{count}: {reason}" for reason, count in rest.most_common())
    return [*shown, f"left out: {sum(rest.values())} more of {where} ({reasons})"]


def same_files(groups: Iterable[tuple[str, Sequence[Path]]]) -> tuple[str, str, Path] | None:
    """Return two groups, and a path of the second, that hold one and the same file; or None."""
    owner: dict[str, str] = {}
    for name, paths in groups:
        for path, real in zip(paths, _real(paths), strict=True):
            if owner.setdefault(real, name) != name:
                return owner[real], name, path
    return None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be opened: {error.strerror}",
            hint="let it be read (`chmod`), or move it away",
        ) from None


def _reason(entry: os.DirEntry[str]) -> str:
    """Return why an entry is passed over, "" for one that is not."""
    if entry.name.startswith("."):
        return HIDDEN
    # Asked first: of a link that leads to itself nothing else can be asked.
    if entry.is_symlink() and not Path(entry.path).exists():
        return NOWHERE
    if entry.is_dir():
        return ""
    if not entry.is_file():
        return NO_FILE
    return "" if Path(entry.name).suffix.lower() in ENDINGS else NO_IMAGE


def _reason_at_top(entry: os.DirEntry[str]) -> str:
    return _reason(entry) or "an image in no class folder"


def _each_once(images: list[Path], links: list[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Return the images with those behind links, and the links to files that are there already."""
    if not links:
        return images, []
    known, twice = set(_real(images)), []
    for link, real in zip(links, _real(links), strict=True):
        if real in known:
            twice.append(LeftOut(path=link, reason=READ_ALREADY))
        else:
            known.add(real)
            images.append(link)
    return images, twice


def _real(paths: Iterable[Path]) -> Iterator[str]:
    """Yield where files really lie; a folder is asked once, for there may be a million files."""
    folders: dict[Path, str] = {}
    for path in paths:
        if path.is_symlink():
            yield os.path.realpath(path)
            continue
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        yield f"{folders[path.parent]}{os.sep}{path.name}"


def _with_contents(one: LeftOut) -> str:
    """Return the reason, with what the file holds where an ending hides an image."""
    if one.reason != NO_IMAGE:
        return one.reason
    from PIL import Image

    try:
        with Image.open(one.path) as image:
            return f"{one.reason}, though it holds {image.format}: rename it"
    except Exception:  # Pillow's plugins raise errors of many kinds on other files
        return one.reason
