"""kdeploy: from an accurate teacher to a small, fast, verified file on a device."""

from __future__ import annotations

__version__ = "0.1.0"
