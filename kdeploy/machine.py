"""The fingerprint of this machine: what decides how fast a file runs here, and what is installed.

Everything is read from the kernel's files and from package metadata: no heavy import, no CUDA
initialised, nothing changed. What a system does not tell (a governor in a virtual machine, /proc
on macOS) is None or empty.

Processes whose memory is measured count their cores here, so what only the fingerprint needs (8 MB,
most of it OpenSSL and package metadata) is imported where it is used.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdeploy import __version__

# As /proc/cpuinfo spells them: wide vectors, and the dot products that make INT8 pay.
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
INT8_INSTRUCTION_SETS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
# What models are made and written with; what runs them, each runtime says itself.
LIBRARIES = (
    *("numpy", "torch", "torchao", "torch-pruning", "lightning-fabric", "onnx", "onnxscript"),
)
_HYPERVISORS = (
    "qemu",
    "kvm",
    "vmware",
    "virtualbox",
    "xen",
    "amazon",
    "google compute",
    "parallels",
)
_ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What measurements are made on. `id` is a hash of the hardware, so it outlives updates."""

    id: str
    cpu: str
    architecture: str
    cores: int
    """What affinity and the cgroup's quota allow, not what is built in."""
    instruction_sets: tuple[str, ...] = ()
    ram_bytes: int | None = None
    governor: str | None = None
    is_virtual: bool | None = None
    emulated_on: str | None = None
    """The real processor's architecture, where a program such as qemu plays this one's."""
    load: float | None = None
    """The load average of the last minute."""
    gpu: str | None = None
    driver: str | None = None
    os: str = ""
    python: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them; `from_dict` reads them back."""
        return {**asdict(self), "instruction_sets": list(self.instruction_sets)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Machine:
        """Return the value that `to_dict` wrote; keys of later versions are ignored."""
        known = {k: v for k, v in fields.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, "instruction_sets": tuple(known.get("instruction_sets", ()))})


def fingerprint(*, root: Path = _ROOT, libraries: Iterable[str] = ()) -> Machine:
    """Return what this machine is now.

    Args:
        root: Where /proc and /sys are looked for.
        libraries: Distributions whose versions are told beside those of `LIBRARIES`.
    """
    cpuinfo = _cpuinfo(root)
    gpu, driver = _gpu(root)
    hardware: dict[str, Any] = {
        "cpu": _cpu_name(cpuinfo, root),
        "architecture": platform.machine(),
        "cores": allowed_cores(root=root),
        "instruction_sets": _instruction_sets(cpuinfo),
        "ram_bytes": _ram_bytes(root),
        "gpu": gpu,
    }
    return Machine(
        **hardware,
        id=_id(hardware),
        governor=_governor(root),
        is_virtual=_is_virtual(cpuinfo, root),
        emulated_on=_emulated_on(root),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        driver=driver,
        os=platform.platform(),
        python=platform.python_version(),
        versions=_versions((*LIBRARIES, *libraries)),
    )


def allowed_cores(*, root: Path = _ROOT) -> int:
    """Return how many cores affinity and the cgroup's quota leave; a part of a core is none."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [q for q in (_quota(f) for f in _cgroup_folders("cpu", root)) if q is not None]
    return max(1, int(min([affinity, *quotas])))


def doubts_of_packages() -> list[str]:
    """Return what is wrong with the packages that are installed here, with the remedy."""
    either = ("onnxruntime", "onnxruntime-gpu")
    found = _versions(either)
    both = [name for name in either if name in found]
    if len(both) < 2:
        return []
    return [
        f"onnxruntime {found[both[0]]} and onnxruntime-gpu {found[both[1]]} are both installed, and"
        " write into one folder: which of them runs is chance; keep one: pip uninstall -y"
        " onnxruntime onnxruntime-gpu && pip install onnxruntime (or 'onnxruntime-gpu[cuda,cudnn]')"
    ]


def throttled_count(*, root: Path = _ROOT) -> int:
    """Return how often the cgroup's quota or heat has stopped or slowed this machine so far."""
    stats = [_text(folder / "cpu.stat") for folder in _cgroup_folders("cpu", root)]
    stopped = [int(m[1]) for s in stats if (m := re.search(r"nr_throttled (\d+)", s))]
    cpus = root / "sys/devices/system/cpu"
    heat = [_text(f) for f in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return sum(stopped) + sum(int(count) for count in heat if count.isdigit())


def _id(hardware: Mapping[str, Any]) -> str:
    import hashlib

    # A kernel update moves the usable RAM by some pages; that is the same machine.
    ram = round((hardware["ram_bytes"] or 0) / 2**30)
    stable = json.dumps({**hardware, "ram_bytes": ram}, sort_keys=True)
    return hashlib.sha256(stable.encode()).hexdigest()[:12]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the keys of the first processor."""
    first = _text(root / "proc/cpuinfo").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _cpu_name(cpuinfo: Mapping[str, str], root: Path) -> str:
    board = _text(root / "proc/device-tree/model")
    part = cpuinfo.get("CPU part", "")
    arm = f"ARM implementer {cpuinfo.get('CPU implementer', '?')} part {part}" if part else ""
    return cpuinfo.get("model name") or board or arm or platform.processor() or platform.machine()


def _instruction_sets(cpuinfo: Mapping[str, str]) -> tuple[str, ...]:
    flags = set(f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def _cgroup_folders(controller: str, root: Path) -> Iterator[Path]:
    """Yield this process's cgroup and its parents: limits of each hold (v2, or v1's controller)."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        bases = (mounts / names, mounts / controller) if names else (mounts / "unified", mounts)
        base = next((b for b in bases if b.is_dir()), mounts)
        folder = base / path.lstrip("/")
        # In a container the path may be the host's: it does not exist here, its base does.
        yield from (f for f in (folder, *folder.parents) if f == base or base in f.parents)


def _quota(folder: Path) -> float | None:
    """Return the cores that a cgroup may use, None without a limit."""
    limit = _text(folder / "cpu.max").split()
    if not limit:
        limit = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    is_limited = len(limit) == 2 and all(n.isdigit() for n in limit) and int(limit[1]) > 0
    return int(limit[0]) / int(limit[1]) if is_limited else None


def _ram_bytes(root: Path) -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = ("memory.max", "memory.limit_in_bytes")
    limits = (_text(f / name) for f in _cgroup_folders("memory", root) for name in files)
    return min([physical, *(int(limit) for limit in limits if limit.isdigit())])


def _governor(root: Path) -> str | None:
    cpus = root / "sys/devices/system/cpu"
    found = {_text(f) for f in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    return ", ".join(sorted(found)) or None


def _is_virtual(cpuinfo: Mapping[str, str], root: Path) -> bool | None:
    if not cpuinfo:
        return None
    dmi = " ".join(_text(root / "sys/class/dmi/id" / n) for n in ("sys_vendor", "product_name"))
    return (
        "hypervisor" in cpuinfo.get("flags", "").split()
        or bool(_text(root / "sys/hypervisor/type"))
        or (root / "proc/device-tree/hypervisor").exists()
        or any(name in dmi.lower() for name in _HYPERVISORS)
    )


def _emulated_on(root: Path) -> str | None:
    """Return what the kernel calls its processor, where that is another than this program's."""
    alias = re.match(r"cpu:type:([^:,]+)", _text(root / "sys/devices/system/cpu/modalias"))
    kernel = alias[1].lower() if alias else ""
    own = platform.machine().lower()
    # Programs of 32 bits run as they are on processors of 64.
    family = "x86" if re.match(r"x86|amd64|i\d86", own) else own
    family = "aarch64" if re.match(r"a(rm|arch)", own) else family
    # An emulator answers uname and /proc/cpuinfo; what lies in /sys, it leaves as it is.
    return kernel if kernel in ("x86", "aarch64") and kernel != family else None


def _gpu(root: Path) -> tuple[str | None, str | None]:
    """Return the NVIDIA GPUs' names and the driver's version, from the driver's files or NVML."""
    folder = root / "proc/driver/nvidia"
    cards = [_text(f) for f in sorted(folder.glob("gpus/*/information"))]
    names = [m[1].strip() for card in cards if (m := re.search(r"Model:\s*(.+)", card))]
    version = re.search(r"(?:Module|x86_64|aarch64)\s+(\d+\.[\d.]+)", _text(folder / "version"))
    if names and version:
        return _counted(names), version[1]
    return _ask_nvidia_smi() if root == _ROOT else (None, None)


def _ask_nvidia_smi() -> tuple[str | None, str | None]:
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    rows = [line.rsplit(",", 1) for line in answer.stdout.splitlines() if "," in line]
    return (_counted([r[0].strip() for r in rows]), rows[0][1].strip()) if rows else (None, None)


def _counted(names: list[str]) -> str:
    unique = sorted(set(names))
    return ", ".join(f"{names.count(n)}x {n}" if names.count(n) > 1 else n for n in unique)


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    import importlib.metadata

    found = {"kdeploy": __version__}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
