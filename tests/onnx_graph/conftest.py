"""What tests of graphs share with those of the exporters that write them."""

from __future__ import annotations

from tests.export.conftest import data, exported, exported_float, int8, network

__all__ = ["data", "exported", "exported_float", "int8", "network"]
