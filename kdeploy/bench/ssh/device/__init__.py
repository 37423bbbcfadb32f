"""What runs on the device: Python 3.9 or later, numpy and onnxruntime; copied there, not installed.

Besides its own modules it imports only those that `kdeploy.bench.ssh.payload_zip` puts beside them.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036 - devices are older than kdeploy
    _dataclass = dataclasses.dataclass

    def _without_later_options(cls: Any = None, **options: Any) -> Any:
        """Leave out what forbids and saves memory, but computes nothing."""
        known = {k: v for k, v in options.items() if k not in ("slots", "kw_only")}
        return _dataclass(cls, **known)

    dataclasses.dataclass = _without_later_options
