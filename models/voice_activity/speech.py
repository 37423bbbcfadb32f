"""Clips of speech in noise, of which it is known for each frame whether somebody speaks.

Speech by two programs of Debian, espeak-ng and flite; the test part has voices and words of its
own. Noise is made: white, pink, brown, a hum, and a rumble of many voices played backwards.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Sequence
from pydoc_data.topics import topics

import numpy as np

from kdeploy.errors import Unavailable

RATE, FRAME = 16_000, 512
ESPEAK = {
    "train": ("en-us", "en-us+f2", "en-gb", "en-gb-scotland+m3", "de", "es+f3", "fr+m2"),
    "test": ("en-us+f4", "en-gb+m7", "it"),
}
FLITE = {"train": ("rms", "awb"), "test": ("slt",)}
"""Voices; those of the test part are heard by no network before."""
WORDS = 8  # of an utterance, about three seconds
UTTERANCES = {"train": 72, "test": 32}
ALOUD = 0.05
"""Of an utterance's loudness, above which somebody speaks."""
SMOOTH = 320  # samples, 20 ms
SHARE_OF_NOISE = 0.15
"""Clips in which nobody speaks."""
QUIETEST, LOUDEST = 0.0, 20.0
"""Decibels of speech above the noise."""


def clips(*, train: int = 480, test: int = 160, frames: int = 125, seed: int = 0) -> dict:
    """Return clips (N, 1, 512 * frames) float32 and labels (N, frames), 1 where somebody speaks.

    Raises:
        Unavailable: a program is not here.
    """
    made: dict = {"classes": [f"frame {n}" for n in range(frames)], "source": "espeak-ng, flite"}
    for part, count in (("train", train), ("test", test)):
        spoken = _utterances(part)
        drawn = [
            _clip(spoken, frames, np.random.default_rng([seed, part == "test", number]))
            for number in range(count)
        ]
        made[f"x_{part}"] = np.stack([x for x, _ in drawn])[:, None]
        made[f"y_{part}"] = np.stack([y for _, y in drawn])
    return made


def _utterances(part: str) -> list[np.ndarray]:
    for program in ("espeak-ng", "flite"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not here", hint="apt-get install espeak-ng flite")
    words = [w for text in topics.values() for w in text.split() if w.isalpha()]
    half = len(words) // 2
    words = words[:half] if part == "train" else words[half:]
    random = np.random.default_rng(len(words))
    spoken = []
    for number in range(UTTERANCES[part]):
        start = int(random.integers(len(words) - WORDS))
        text = " ".join(words[start : start + WORDS])
        if number % 3:
            spoken.append(_espeak(text, ESPEAK[part][number % len(ESPEAK[part])]))
        else:
            spoken.append(_flite(text, FLITE[part][number % len(FLITE[part])]))
    return spoken


def _espeak(text: str, voice: str) -> np.ndarray:
    return _heard(["espeak-ng", "-v", voice, "--stdout", text])


def _flite(text: str, voice: str) -> np.ndarray:
    return _heard(["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"])


def _heard(command: Sequence[str]) -> np.ndarray:
    """Return what a program says, at 16 kHz, with a loudness of 1."""
    from scipy.signal import resample_poly

    said = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(said)) as file:
        rate, width = file.getframerate(), file.getsampwidth()
        # Of a stream nobody knows the length beforehand: all that is there is taken.
        sound = np.frombuffer(said[44 : len(said) // width * width], np.int16).astype(np.float32)
    sound = resample_poly(sound, RATE, rate) if rate != RATE else sound
    return (sound / np.sqrt(np.mean(sound**2))).astype(np.float32)


def _clip(
    spoken: Sequence[np.ndarray], frames: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    length = frames * FRAME
    speech = np.zeros(length, np.float32)
    if random.random() > SHARE_OF_NOISE:
        place = int(random.integers(-length // 4, length // 2))
        while place < length:
            sound = spoken[int(random.integers(len(spoken)))]
            own = slice(max(-place, 0), min(len(sound), length - place))
            speech[place + own.start : place + own.stop] = sound[own]
            place += len(sound) + int(random.integers(RATE // 4, 2 * RATE))
    is_loud = np.convolve(speech**2, np.full(SMOOTH, 1 / SMOOTH, np.float32), "same") > ALOUD**2
    labels = is_loud.reshape(frames, FRAME).mean(1) > 0.5
    ratio = 10 ** (-random.uniform(QUIETEST, LOUDEST) / 20)
    mixed = speech + ratio * _noise(spoken, length, random)
    loudness = 10 ** random.uniform(-2.0, -0.7)
    return (loudness * mixed / max(np.sqrt(np.mean(mixed**2)), 1e-3)).astype(np.float32), (
        labels.astype(np.int64)
    )


def _noise(spoken: Sequence[np.ndarray], length: int, random: np.random.Generator) -> np.ndarray:
    """Return a noise of a loudness of 1."""
    kind = int(random.integers(5))
    if kind == 4:
        sound = sum(
            np.resize(spoken[int(random.integers(len(spoken)))][::-1], length) for _ in range(6)
        )
    elif kind == 3:
        time, pitch = np.arange(length) / RATE, random.uniform(50, 200)
        sound = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 8))
        sound = sound + 0.1 * random.normal(size=length)
    else:
        # Power falls by 0, 3 or 6 decibels an octave: white, pink, brown.
        spectrum = np.fft.rfft(random.normal(size=length))
        sound = np.fft.irfft(
            spectrum / np.maximum(np.arange(len(spectrum)), 8) ** (kind / 2), length
        )
    return sound / np.sqrt(np.mean(sound**2))
