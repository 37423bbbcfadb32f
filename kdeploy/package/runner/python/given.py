"""Read the files that a model is given: images, arrays, and of several inputs an array for each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from . import reading, rules
from .texts import stop

Json = dict[str, Any]


def given_arrays(path: Path, manifest: Json, is_preprocessed: bool) -> list[Any]:
    """Return the items of a file, an array for each input of the model."""
    if not path.is_file():
        stop(f"there is no file {path}", "name image files, .npy or .npz files")
    if "preprocessing" in manifest and path.suffix != ".npz":
        return [_model_input(path, manifest, is_preprocessed)]
    ports = rules.data_ports(manifest)
    try:
        if path.suffix == ".npy" and len(ports) == 1:
            stored = {ports[0]["name"]: np.load(path, allow_pickle=False)}
        else:
            reading.array_shapes(path, path.name)  # sizes first, then contents
            with np.load(path, allow_pickle=False) as opened:
                stored = {name: opened[name] for name in opened.files}
    except (reading.Refused, ValueError, EOFError, OSError, MemoryError) as error:
        names = ", ".join(f"{port['name']}=..." for port in ports)
        stop(f"{path} cannot be read: {error}", f"write it with numpy.savez(file, {names})")
    arrays = [_fitting(path, port, stored.get(port["name"])) for port in ports]
    pairs = list(zip(arrays, ports))  # noqa: B905 - Python 3.9
    if is_preprocessed:
        arrays = [x.astype(port["type"]) for x, port in pairs]
    else:
        arrays = [_prepared(path, x, port) for x, port in pairs]
    if len({len(x) for x in arrays}) > 1:
        stop(f"{path} holds {[len(x) for x in arrays]} items", "save as many of each input")
    return arrays


def _fitting(path: Path, port: Json, x: Any) -> Any:
    """Return the items of one input: (N, *shape), or one of them alone."""
    sizes = port["shape"][1:] if rules.takes_rows(port) else port["shape"]
    shape = tuple(1 if size == "batch" else size for size in sizes)
    shape = tuple(size if isinstance(size, int) else None for size in shape)
    name, hint = port["name"], f"save {port['type']} of shape {shape}, or (N, *{shape})"
    if x is None:
        stop(f"{path} holds no array `{name}`", hint)
    x = x[None] if _fits(x.shape, shape) else x
    if not _fits(x.shape[1:], shape) or not len(x) or x.dtype.kind not in "uifb":
        stop(f"{path}: `{name}` is {x.dtype} of shape {x.shape}; it takes {shape}", hint)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        stop(f"{path}: `{name}` holds NaN or infinity", "every number must be finite")
    return x


def _prepared(path: Path, x: Any, port: Json) -> Any:
    """Return an input as the model takes it, of numbers as the data set stores them."""
    form, name = port.get("preprocessing"), port["name"]
    if form is None:
        if port["type"] == "uint8" and x.dtype != np.uint8:
            stop(f"{path}: `{name}` holds {x.dtype}", "save bytes of pixels, uint8")
        return x.astype(port["type"])
    if form["vocabulary"]:
        if x.dtype.kind == "f" or x.min() < 0 or x.max() >= form["vocabulary"]:
            hint = f"save integers from 0 to {form['vocabulary'] - 1}"
            stop(f"{path}: `{name}` holds {x.dtype} from {x.min()} to {x.max()}", hint)
        return x.astype(port["type"])
    per_channel = (-1, *(1 for _ in x.shape[2:]))
    mean, std = (np.float32(form[k]).reshape(per_channel) for k in ("mean", "std"))
    return (x.astype(np.float32) * np.float32(form["scale"]) - mean) / std


def _model_input(path: Path, manifest: Json, is_preprocessed: bool) -> Any:
    form, is_array = manifest["preprocessing"], is_preprocessed or path.suffix == ".npy"
    shape = tuple(form["shape"])
    if form.get("folded"):
        return _pixels(path, form)
    is_text = form.get("dtype") == "int64"
    if is_text:  # which may be of any length
        sizes = rules.data_ports(manifest)[0]["shape"][1:]
        shape = tuple(size if isinstance(size, int) else None for size in sizes)
    x = _array(path, shape) if is_array else sized(_image(path, form), path, form)
    if is_text:
        if x.dtype.kind == "f" or x.min() < 0 or x.max() >= form["vocabulary"]:
            hint = f"save token ids, integers below {form['vocabulary']}"
            stop(f"{path} holds {x.dtype} from {x.min()} to {x.max()}", hint)
        return x.astype(np.int64)
    if is_preprocessed:
        return x.astype(np.float32)
    per_channel = (-1, *(1 for _ in shape[1:]))
    mean, std = (np.float32(form[k]).reshape(per_channel) for k in ("mean", "std"))
    return (x.astype(np.float32) * np.float32(form["scale"]) - mean) / std


def _pixels(path: Path, form: Json) -> Any:
    """Return the bytes (N, height, width, channels) of a model that prepares them by itself."""
    shape = tuple(rules.pixel_shape(form))
    if path.suffix != ".npy":
        image = _image(path, form)
        if not form["resize"]:
            _check_size(path, image, form)
        return np.asarray(image, np.uint8).reshape(1, image.height, image.width, shape[2])
    x = _array(path, shape)
    if x.dtype != np.uint8:
        stop(f"{path} holds {x.dtype}, and the model takes pixels", "save bytes, uint8")
    return x


def _fits(found: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    """Return whether a shape is the wanted one, in which None is any size."""
    pairs = zip(found, wanted)  # noqa: B905 - Python 3.9
    return len(found) == len(wanted) and all(size in (None, n) and n > 0 for n, size in pairs)


def _array(path: Path, shape: tuple[Any, ...]) -> Any:
    try:
        with path.open("rb") as file:
            start, _, size = reading.npy_header(file.read(reading.MOST_HEADER_BYTES))
        if start + size != path.stat().st_size:
            raise ValueError(f"its header asks for {size} bytes of data")
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        stop(f"{path} is not a .npy file of numbers: {error}", "write it with numpy.save")
    x = x[None] if _fits(x.shape, shape) else x
    if not _fits(x.shape[1:], shape) or len(x) == 0 or x.dtype.kind not in "uif":
        found, told = f"{x.dtype} of shape {x.shape}", str(shape).replace("None", "any")
        stop(f"{path} holds {found}; the model takes {told}", f"save {told} or (N, *{told})")
    if not np.isfinite(x).all():
        stop(f"{path} holds NaN or infinity", "every number must be finite")
    return x


def _image(path: Path, form: Json) -> Any:
    """Return the picture of a file: upright, opaque, grey or of three colours."""
    shape = tuple(form["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        stop(f"{path} is no .npy file, and this model takes no images", f"save numbers: {shape}")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        hint = "pip install pillow, or give a .npy file"
        stop(f"reading {path} needs Pillow, which is not installed here", hint, 3)
    try:
        opened = Image.open(path)
        opaque, ground = _opaque(ImageOps.exif_transpose(opened), form.get("background"))
        image = opaque.convert("L" if shape[0] == 1 else "RGB")
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        stop(f"{path} cannot be decoded: {error}", "give another image, or a .npy file")
    if opened.mode[0] in "IF":
        stop(f"{path} has more than 8 bits a channel", "convert it to 8 bits, or give .npy")
    if not ground:
        hint = "lay it on a colour first; the data of this model had no transparency"
        stop(f"{path} is transparent in part", hint)
    return image


def _check_size(path: Path, image: Any, form: Json) -> None:
    _, height, width = form["shape"]
    if image.size != (width, height):
        stop(f"{path} has {image.size} pixels, not {(width, height)}", "resize it first")


def sized(image: Any, path: Path, form: Json) -> Any:
    """Return the bytes (1, channels, height, width) of a picture at the size of the form."""
    from PIL import Image

    channels, height, width = form["shape"]
    if not form["resize"]:
        _check_size(path, image, form)
    if form["resize"] == "letterbox":
        image = letterboxed(image, width, height)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(1, height, width, channels).transpose(0, 3, 1, 2)


def _opaque(image: Any, background: Any) -> tuple[Any, bool]:
    """Return the image laid on the background, and whether that could be done."""
    from PIL import Image

    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    layer = image.convert("RGBA") if has_alpha else image
    if not has_alpha or layer.getchannel("A").getextrema() == (255, 255):
        return layer, True
    if not background:
        return layer, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer), True


def letterboxed(image: Any, width: int, height: int) -> Any:
    """Return the image in its own shape, in the middle of grey bars."""
    from PIL import Image

    scale = min(height / image.height, width / image.width)
    new = [
        max(1, min(math.floor(n * scale + 0.5), whole))
        for n, whole in ((image.width, width), (image.height, height))
    ]
    grey = Image.new(image.mode, (width, height), (114,) * len(image.getbands()))
    resized = image.resize((new[0], new[1]), Image.Resampling.BILINEAR)
    grey.paste(resized, ((width - new[0]) // 2, (height - new[1]) // 2))
    return grey
