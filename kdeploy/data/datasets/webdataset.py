"""WebDataset: samples in tar files, `0001.jpg` beside `0001.cls`, read from there when needed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Split, dataset
from kdeploy.data.decoded import Form, picture_from
from kdeploy.data.kept_items import KeptItems, has_room
from kdeploy.data.labels import Labels, classes_of, labels_of
from kdeploy.data.lazy_items import LazyItems, padded, sample
from kdeploy.data.pictures import form_of, preprocessing_of
from kdeploy.data.statistics import channel_statistics
from kdeploy.data.tar_samples import Sample, array_of, samples_in, shards_of
from kdeploy.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm")
TARGETS = ("cls", "txt", "json", "npy")
TEST_SHARE = 0.1


@dataset()
def webdataset(
    *,
    shards: Path,
    test: Path | None = None,
    validation: Path | None = None,
    classes: list[str] | int | None = None,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = False,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    keep_decoded: bool | None = None,
) -> Parts:
    """Return the samples; pictures stay in their shards and are decoded when they are shown.

    Targets are kept in memory: a class (`.cls`, `.txt`), numbers (`.json`, `.npy`), or of boxes
    rows `x1 y1 x2 y2 class` in pixels of the input. Several processes share each step.

    Args:
        shards: Files to train on, e.g. `train-{000..099}.tar` or `train-*.tar`.
        test: Files to test on; left out, the last tenth of the samples of `shards`.
        validation: Files to validate on; left out, it is held out of train.
        classes: Names of the classes or their number; left out, as the training targets tell.
        size: Height and width in pixels that every picture is brought to.
        channels: 1 for grey, 3 for colour.
        letterbox: Keep the shape of pictures, between grey bars; else they are stretched.
        mean: Per channel, of values in 0..1; left out, that of 2000 training pictures.
        std: Per channel, of values in 0..1; left out, that of 2000 training pictures.
        keep_decoded: Decode each picture once; later epochs read it from a file in the cache
            that is as large as all pictures decoded, and goes with the process. Left out, where
            that file takes at most a tenth of what is free on the disk.
    """
    form = form_of(size, channels, letterbox=letterbox)
    paths = {"train": shards, "test": test, "validation": validation}
    found = {
        part: list(samples_in(shards_of(path))) for part, path in paths.items() if path is not None
    }
    notes = []
    if test is None:
        count = max(1, round(len(found["train"]) * TEST_SHARE))
        found["test"], found["train"] = found["train"][-count:], found["train"][:-count]
        notes.append(f"the last {count} samples of {shards} are the test part")
    targets = {part: _targets(samples) for part, samples in found.items()}
    splits = {
        part: Split(
            x=cast("NDArray[Any]", _pictures(samples, form, keep=keep_decoded)),
            y=targets[part],
            origin=str(paths[part] or shards),
        )
        for part, samples in found.items()
    }
    measured = channel_statistics(sample(splits["train"].x)) if not (mean and std) else None
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        preprocessing=preprocessing_of(
            form, classes=_classes(classes, targets), mean=mean, std=std, measured=measured
        ),
        source=str(shards),
        fingerprint=_fingerprint(found),
        notes=tuple(notes),
    )


def _pictures(samples: Sequence[Sample], form: Form, *, keep: bool | None) -> LazyItems:
    members = []
    for one in samples:
        endings = [ending for ending in one.members if ending in IMAGES]
        if len(endings) != 1:
            raise DataError(
                f"{one.where} has {len(endings)} pictures: {', '.join(one.members)}",
                hint=f"a sample has one member of {', '.join(IMAGES)}",
            )
        members.append((one.members[endings[0]], f"{one.where}.{endings[0]}"))

    def read(place: int) -> NDArray[Any]:
        member, where = members[place]
        return picture_from(io.BytesIO(member.read()), form, where=where).pixels

    shape, dtype = (form.channels, *form.size), np.dtype(np.uint8)
    if keep is None:
        keep = has_room(len(members) * math.prod(shape))
    kept = KeptItems(len(members), shape, dtype) if keep else None
    return LazyItems(read, len(members), shape, dtype, kept=kept)


def _targets(samples: Sequence[Sample]) -> NDArray[Any]:
    values = [_target(one) for one in samples]
    try:
        return padded(values)
    except ValueError as error:
        raise DataError(
            f"{samples[0].shard} and others: {error}",
            hint="targets of one shape, or lists of rows of one width",
        ) from None


def _target(one: Sample) -> Any:
    ending = next((ending for ending in TARGETS if ending in one.members), None)
    if ending is None:
        raise DataError(
            f"{one.where} has no target: {', '.join(one.members)}",
            hint=f"a sample has one member of {', '.join(TARGETS)}",
        )
    content, where = one.members[ending].read(), f"{one.where}.{ending}"
    if ending == "npy":
        return array_of(content, where)
    try:
        found = json.loads(content) if ending == "json" else int(content)
        return np.asarray(found, np.float32 if isinstance(found, list) else None)
    except (ValueError, TypeError):
        raise DataError(
            f"{where} is {content[:40]!r}, which is no target",
            hint="`.cls` and `.txt` hold a class number, `.json` a number or lists of numbers",
        ) from None


def _classes(
    classes: Sequence[str] | int | None, targets: dict[str, NDArray[Any]]
) -> tuple[str, ...]:
    if targets["train"].ndim > 1 and classes is None:
        return ()
    if targets["train"].ndim > 1:
        return tuple(classes_of(classes, {}))
    labels: dict[str, Labels] = {part: labels_of(y, where=part) for part, y in targets.items()}
    return tuple(classes_of(classes, labels))


def _fingerprint(found: dict[str, list[Sample]]) -> str:
    """Return a digest of names and sizes of all members, and of each part's first pictures."""
    import hashlib

    digest = hashlib.sha256()
    for part, samples in found.items():
        digest.update(f"{part} {len(samples)}".encode())
        for one in samples:
            members = (f"{ending} {m.offset} {m.size}" for ending, m in one.members.items())
            digest.update(f"{one.name} {' '.join(members)}".encode())
        for one in samples[:: max(1, len(samples) // 64)]:
            for member in one.members.values():
                digest.update(member.read())
    return digest.hexdigest()
