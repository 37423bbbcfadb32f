"""Energy of a processor or a GPU, from counters in the hardware.

RAPL counts what whole processor packages use, idle parts and other programs included; NVML counts
a GPU. Both are refreshed every few milliseconds to 0.1 s, so they are read around windows of
seconds, never around one batch. Where there is no counter nothing is estimated. Source: the Linux
kernel, Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy.bench import nvml
from kdeploy.errors import Unavailable

WINDOW_SECONDS = 2.0  # many times the counters' own step
POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Reads the counter of a device; construction raises `Unavailable` where there is none."""

    def __init__(self, device: str, *, powercap: Path = POWERCAP) -> None:
        """Find the counters.

        Args:
            device: "cuda", or any other for the processor.
            powercap: Where the kernel shows the processor's.

        Raises:
            Unavailable: with the reason.
        """
        self._zones: list[Path] = [] if device == "cuda" else _packages(powercap)
        self._before = self._read()

    def joules(self) -> float:
        """Return what was used since the last time, or since construction."""
        before, self._before = self._before, self._read()
        used = 0.0
        for name, now in self._before.items():
            rise = now - before[name]
            # The counter starts again at 0 beyond its range.
            used += rise if rise >= 0 else rise + _range_joules(Path(name))
        return used

    def _read(self) -> dict[str, float]:
        if not self._zones:
            return {"": nvml.energy_joules()}
        return {str(zone): _joules(zone / "energy_uj") for zone in self._zones}


def _packages(powercap: Path) -> list[Path]:
    """Return the zones of whole packages: their parts are in them, and `psys` holds them all."""
    zones = sorted(
        zone
        for zone in powercap.glob("*-rapl:*")
        if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
    )
    if not zones:
        raise Unavailable(
            f"the kernel shows no energy counter (RAPL) in {powercap}",
            hint="virtual machines and most ARM boards have none; use a meter at the plug",
        )
    return zones


def _range_joules(zone: Path) -> float:
    return _joules(zone / "max_energy_range_uj")


def _joules(file: Path) -> float:
    try:
        return int(file.read_text()) * 1e-6
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unavailable(
            f"{file} cannot be read ({reason})", hint=f"let root allow it: chmod a+r {file}"
        ) from None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
