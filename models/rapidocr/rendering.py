"""Rendered text: lines with their letters, and pages with where text stands, all known exactly.

Words of Python's own language reference, which comes with Python, in fonts of Debian, dark on light
or light on dark, blurred and noisy. Items to train on and to test on show other words, in other
fonts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kdeploy.errors import Unavailable

FONTS = Path("/usr/share/fonts/truetype")
PACKAGES = "fonts-dejavu-core fonts-liberation"
TRAIN_FONTS = (
    "dejavu/DejaVuSans.ttf", "dejavu/DejaVuSans-Bold.ttf", "dejavu/DejaVuSerif.ttf",
    "liberation/LiberationSans-Regular.ttf", "liberation/LiberationSerif-Regular.ttf",
    "liberation/LiberationSerif-Bold.ttf", "liberation/LiberationSansNarrow-Regular.ttf",
)  # fmt: skip
TEST_FONTS = (
    "dejavu/DejaVuSerif-Bold.ttf", "liberation/LiberationSans-Bold.ttf",
    "liberation/LiberationSerif-Italic.ttf",
)  # fmt: skip
LETTERS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.,:;()'-]*")
MOST_WORDS, MOST_LETTERS = 3, 22
TEST_SHARE = 10
"""Every tenth word is a word of the test part alone."""
HALF = 0.5
"""Mean and standard deviation of pixels in 0..1, as readers of text were trained."""
Drawn = tuple[np.ndarray, object]


def lines(
    *,
    train: int = 2000,
    test: int = 400,
    height: int = 48,
    width: int = 320,
    channels: int = 3,
    seed: int = 0,
) -> dict:
    """Return lines (N, channels, height, width) and their texts; right of a text it is even.

    Raises:
        Unavailable: a font is not here.
    """

    def draw(words: Sequence[str], fonts: Sequence[Path], random: np.random.Generator) -> Drawn:
        return _line(_text(words, random), fonts, (height, width), random)

    return _data(draw, {"train": train, "test": test}, channels, seed)


def pages(*, train: int = 200, test: int = 80, side: int = 320, seed: int = 0) -> dict:
    """Return pages (N, 3, side, side) and masks (N, side, side), 1 where a line of text stands.

    Raises:
        Unavailable: a font is not here.
    """

    def draw(words: Sequence[str], fonts: Sequence[Path], random: np.random.Generator) -> Drawn:
        return _page(words, fonts, side, random)

    return {
        **_data(draw, {"train": train, "test": test}, 3, seed),
        "classes": ["background", "text"],
    }


def _data(draw: Callable[..., Drawn], counts: dict[str, int], channels: int, seed: int) -> dict:
    made: dict = {"mean": [HALF] * channels, "std": [HALF] * channels, "source": "rendered text"}
    every = _words()
    for part, count in counts.items():
        is_test = part == "test"
        words = [w for place, w in enumerate(every) if (place % TEST_SHARE == 0) == is_test]
        fonts = _fonts(TEST_FONTS if is_test else TRAIN_FONTS)
        drawn = [
            draw(words, fonts, np.random.default_rng([seed, is_test, item]))
            for item in range(count)
        ]
        x = np.stack([pixels for pixels, _ in drawn])[:, None]
        made[f"x_{part}"] = np.repeat(x, channels, axis=1)
        made[f"y_{part}"] = np.array([target for _, target in drawn])
    return made


def _words() -> list[str]:
    from pydoc_data.topics import topics

    found = {w for text in topics.values() for w in LETTERS.findall(text) if len(w) <= MOST_LETTERS}
    return sorted(found)


def _fonts(names: Sequence[str]) -> list[Path]:
    files = [FONTS / name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise Unavailable(f"the font {missing[0]} is not here", hint=f"apt-get install {PACKAGES}")
    return files


def _text(words: Sequence[str], random: np.random.Generator) -> str:
    """Return some words with a space between, of at most `MOST_LETTERS` letters."""
    chosen = random.choice(words, random.integers(1, MOST_WORDS + 1))
    text = str(chosen[0])
    for word in chosen[1:]:
        if len(text) + 1 + len(word) <= MOST_LETTERS:
            text += f" {word}"
    return text


def _line(
    text: str, fonts: Sequence[Path], size: tuple[int, int], random: np.random.Generator
) -> Drawn:
    height, width = size
    font = _font_that_fits(
        text, fonts, random, letters=random.uniform(0.5, 0.75) * height, width=width
    )
    paper, ink = _two_greys(random)
    canvas = Image.new("L", (width, height), paper)
    left, top, _, bottom = font.getbbox(text)
    up = (height - (bottom - top)) // 2 - top + int(random.integers(-2, 3))
    ImageDraw.Draw(canvas).text((4 - left, up), text, fill=ink, font=font)
    return _worn(canvas, random), text


def _page(
    words: Sequence[str], fonts: Sequence[Path], side: int, random: np.random.Generator
) -> Drawn:
    paper, ink = _two_greys(random)
    canvas, mask = Image.new("L", (side, side), paper), np.zeros((side, side), np.uint8)
    pen, y = ImageDraw.Draw(canvas), int(random.integers(4, 40))
    while y < side - 24:
        text = _text(words, random)
        letters = min(random.uniform(12, 30), side - 4 - y)
        font = _font_that_fits(text, fonts, random, letters=letters, width=side)
        left, top, right, bottom = font.getbbox(text)
        x = int(random.integers(4, max(side - (right - left) - 4, 5)))
        pen.text((x - left, y - top), text, fill=ink, font=font)
        mask[y : y + bottom - top, x : x + right - left] = 1
        y += bottom - top + int(random.integers(6, 60))
    return _worn(canvas, random), mask


def _font_that_fits(
    text: str, fonts: Sequence[Path], random: np.random.Generator, *, letters: float, width: int
) -> ImageFont.FreeTypeFont:
    """Return a font, `letters` pixels high or as much smaller as the text is too wide for."""
    file = str(fonts[int(random.integers(len(fonts)))])
    font = ImageFont.truetype(file, int(letters))
    needed = font.getlength(text) + 8
    if needed <= width:
        return font
    return ImageFont.truetype(file, max(int(letters * width / needed), 8))


def _two_greys(random: np.random.Generator) -> tuple[int, int]:
    """Return the grey of the paper and that of the ink, at least a third of the scale apart."""
    dark, light = int(random.integers(0, 90)), int(random.integers(175, 256))
    return (light, dark) if random.integers(3) else (dark, light)


def _worn(canvas: Image.Image, random: np.random.Generator) -> np.ndarray:
    blurred = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.0)))
    noise = random.normal(0, random.uniform(0, 12), (canvas.height, canvas.width))
    return (np.asarray(blurred) + noise).round().clip(0, 255).astype(np.uint8)
