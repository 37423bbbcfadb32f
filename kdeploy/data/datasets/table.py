"""Tables: a CSV or Parquet file with a picture's file and its targets in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Parts, dataset
from kdeploy.data.decoded import Form
from kdeploy.data.pictures import Annotated, form_of, parts_of_pictures, pictures_of
from kdeploy.errors import DataError, FileMissing, Unavailable, UnknownName

if TYPE_CHECKING:
    import pandas as pd

HEAD_LINES = 1


@dataset()
def table(
    *,
    train: Path,
    test: Path,
    validation: Path | None = None,
    file: str = "file",
    targets: list[str] | str,
    folder: Path | None = None,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    letterbox: bool = False,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Parts:
    """Return pictures and targets: a class of one column of words or whole numbers, else numbers.

    Words are classes in the order of the alphabet; whole numbers of one column are classes by
    their value. One column with a fraction, or several columns, give numbers (N, columns).

    Args:
        train: A .csv, .tsv or .parquet file.
        test: The same for the test part.
        validation: The same for the validation part; left out, it is held out of train.
        file: The column with the picture's file.
        targets: The column, or columns, with the targets.
        folder: What the files are relative to; left out, the table's own folder.
        size: Height and width in pixels that every picture is brought to.
        channels: 1 for grey, 3 for colour.
        letterbox: Keep the shape of pictures, between grey bars; else they are stretched.
        mean: Per channel, of values in 0..1; left out, that of the training pictures.
        std: Per channel, of values in 0..1; left out, that of the training pictures.
    """
    form = form_of(size, channels, letterbox=letterbox)
    columns = [targets] if isinstance(targets, str) else targets
    paths = {"train": train, "test": test} | ({"validation": validation} if validation else {})
    rows = {part: _read(path, [file, *columns]) for part, path in paths.items()}
    values = {part: _columns(rows[part], columns, paths[part]) for part in paths}
    classes = _classes(values)
    parts = {
        part: _part(
            paths[part],
            folder or path.parent,
            rows[part][file].tolist(),
            _targets(values[part], classes, path, columns),
            form,
        )
        for part, path in paths.items()
    }
    return parts_of_pictures(parts, form, classes=classes or (), mean=mean, std=std)


def _part(path: Path, folder: Path, files: Sequence[Any], y: NDArray[Any], form: Form) -> Annotated:
    for row, name in enumerate(files):
        if not isinstance(name, str) or not name:
            raise DataError(f"{_line(path, row)}: no file is named", hint="name it or drop the row")
    paths = [folder / name for name in files]
    pictures = pictures_of(folder, paths, form, named_by=path)
    return Annotated(
        x=pictures.decoded.x,
        y=y,
        key=pictures.decoded.key,
        origin=str(path),
        notes=pictures.notes,
    )


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint="a .csv, .tsv or .parquet file")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except ImportError:
        raise Unavailable(
            f"{path} needs pyarrow, which is not installed here", hint="pip install pyarrow"
        ) from None
    except Exception as error:  # pandas and pyarrow raise errors of many kinds
        raise DataError(f"{path} is no table: {error}", hint="a .csv, .tsv or .parquet") from None
    for column in columns:
        if column not in frame.columns:
            raise UnknownName.among("column", column, map(str, frame.columns), where=str(path))
    if not len(frame):
        raise DataError(f"{path} has no rows", hint="add rows, one a picture")
    return frame


def _columns(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> list[NDArray[Any]]:
    found = []
    for column in columns:
        missing = np.flatnonzero(frame[column].isna().to_numpy())
        if len(missing):
            raise DataError(
                f"{_line(path, int(missing[0]))}: `{column}` is empty ({len(missing)} such rows)",
                hint="fill it or drop the row",
            )
        found.append(frame[column].to_numpy())
    return found


def _classes(values: Mapping[str, Sequence[NDArray[Any]]]) -> list[str] | None:
    """Return the classes of one column of words or whole numbers; None of numbers."""
    column, *others = values["train"]
    if others:
        return None
    if column.dtype.kind in "biu":
        return [str(number) for number in range(int(column.max()) + 1)]
    if column.dtype.kind == "f":
        return None
    return sorted(set(map(str, column)))


def _targets(
    values: Sequence[NDArray[Any]],
    classes: Sequence[str] | None,
    path: Path,
    columns: Sequence[str],
) -> NDArray[Any]:
    if classes is None:
        return _numbers(values, path, columns)
    if values[0].dtype.kind in "biu":
        return values[0].astype(np.int64)
    places = {name: place for place, name in enumerate(classes)}
    for row, name in enumerate(map(str, values[0])):
        if name not in places:
            raise DataError(
                f"{_line(path, row)}: `{columns[0]}` is `{name:.60}`, which no training row is",
                hint="correct the word, or add training rows of that class",
            )
    return np.array([places[name] for name in map(str, values[0])], np.int64)


def _numbers(values: Sequence[NDArray[Any]], path: Path, columns: Sequence[str]) -> NDArray[Any]:
    for column, found in zip(columns, values, strict=True):
        if found.dtype.kind not in "biuf":
            row = next(i for i, value in enumerate(found) if not _is_number(value))
            raise DataError(
                f"{_line(path, row)}: `{column}` is `{found[row]!s:.60}`, not a number",
                hint="several columns of targets hold numbers; name one column of words alone",
            )
    whole = all(found.dtype.kind in "biu" for found in values)
    return np.stack(values, axis=1).astype(np.int64 if whole else np.float32)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _line(path: Path, row: int) -> str:
    """Return where a row stands: of text files the line, with the head."""
    return f"{path}: row {row}" if path.suffix == ".parquet" else f"{path}:{row + 1 + HEAD_LINES}"
