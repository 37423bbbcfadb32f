"""Hugging Face `datasets`: pictures and targets by column, of the Hub or of a folder on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, Split, dataset
from kdeploy.data.decoded import Form, fitted, upright
from kdeploy.data.labels import Labels, classes_of, labels_of
from kdeploy.data.lazy_items import LazyItems, padded, sample
from kdeploy.data.pictures import form_of, preprocessing_of
from kdeploy.data.statistics import channel_statistics
from kdeploy.errors import DataError, MissingDependency, Unavailable, UnknownName


@dataset()
def hf(
    *,
    dataset: str,
    configuration: str | None = None,
    train: str = "train",
    test: str = "test",
    validation: str | None = None,
    image: str = "image",
    target: str = "label",
    classes: list[str] | int | None = None,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = False,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return the samples; pictures stay in the memory-mapped files and are decoded when shown.

    Args:
        dataset: A name of the Hub, or a folder that `save_to_disk` wrote or that holds data files.
        configuration: Of a name of the Hub that has several.
        train: Split to train on, also a part: `train[:90%]`.
        test: Split to test on.
        validation: Split to validate on; left out, it is held out of train.
        image: Column of the pictures.
        target: Column of the targets.
        classes: Names of the classes or their number; left out, as the column says.
        size: Height and width in pixels that every picture is brought to.
        channels: 1 for grey, 3 for colour.
        letterbox: Keep the shape of pictures, between grey bars; else they are stretched.
        mean: Per channel, of values in 0..1; left out, that of 2000 training pictures.
        std: Per channel, of values in 0..1; left out, that of 2000 training pictures.
    """
    form = form_of(size, channels, letterbox=letterbox)
    names = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    found = {part: _split(dataset, configuration, name) for part, name in names.items()}
    for part, one in found.items():
        for column in (image, target):
            if column not in one.column_names:
                where = f"split `{names[part]}` of {dataset}"
                raise UnknownName.among("column", column, one.column_names, where=where)
    targets = {part: _targets(one, target, dataset) for part, one in found.items()}
    splits = {
        part: Split(
            x=cast("NDArray[Any]", _pictures(one, image, form, f"{dataset}, {names[part]}")),
            y=targets[part],
            origin=f"{dataset}, {names[part]}",
        )
        for part, one in found.items()
    }
    measured = channel_statistics(sample(splits["train"].x)) if not (mean and std) else None
    named = getattr(found["train"].features[target], "names", None)
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        preprocessing=preprocessing_of(
            form,
            classes=_classes(classes if classes is not None else named, targets),
            mean=mean,
            std=std,
            measured=measured,
        ),
        licence=str(found["train"].info.license or ""),
        source=dataset,
        fingerprint=" ".join(f"{one._fingerprint} {form.key()}" for one in found.values()),
    )


def _split(name: str, configuration: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency.named(
            "datasets", needed_for=f"the data set `{name}`", pip="'kdeploy[data]'"
        ) from error
    try:
        folder = Path(name)
        if (folder / "dataset_dict.json").is_file():
            whole = datasets.load_from_disk(str(folder))
            if split not in whole:
                raise UnknownName.among("split", split, list(whole), where=name)
            return whole[split]
        found = datasets.load_dataset(name, configuration, split=split)
    except (UnknownName, KeyboardInterrupt):
        raise
    except Exception as error:  # the library raises errors of many kinds
        raise Unavailable(
            f"the data set `{name}` cannot be had: {str(error).splitlines()[0]:.200}",
            hint="name a folder that `save_to_disk` wrote, or see that the Hub can be reached",
        ) from error
    return found


def _pictures(found: Any, column: str, form: Form, where: str) -> LazyItems:
    def read(place: int) -> NDArray[Any]:
        try:
            image = found[place][column]
            converted, _ = upright(image, form)
        except Exception as error:  # Pillow's plugins raise errors of many kinds
            raise DataError(
                f"{where}: the picture of row {place} cannot be decoded: {error}",
                hint=f"`{column}` is to be a column of images",
            ) from error
        return fitted(converted, form)

    # Arrow's tables are read by one thread.
    shape = (form.channels, *form.size)
    return LazyItems(read, len(found), shape, np.dtype(np.uint8), is_threaded=False)


def _targets(found: Any, column: str, name: str) -> NDArray[Any]:
    values = found.with_format("numpy", columns=[column])[:][column]
    try:
        is_whole = isinstance(values, np.ndarray) and values.dtype.kind != "O"
        return np.asarray(values) if is_whole else padded(values)
    except ValueError as error:
        raise DataError(f"{name}: `{column}`: {error}", hint="targets of one shape") from None


def _classes(
    classes: Sequence[str] | int | None, targets: dict[str, NDArray[Any]]
) -> tuple[str, ...]:
    if targets["train"].ndim > 1:
        return tuple(classes_of(classes, {})) if classes is not None else ()
    labels: dict[str, Labels] = {part: labels_of(y, where=part) for part, y in targets.items()}
    return tuple(classes_of(classes, labels))
