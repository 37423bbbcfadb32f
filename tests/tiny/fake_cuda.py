"""A CUDA stream on the processor: `kdeploy.kernels.cuda_stream`, without CUDA."""

from __future__ import annotations

import contextlib

import torch

HANDLE = 77
SECONDS = 0.0025


class FakeStream:
    """Runs what it is given at once; `launches` is a list while launches are captured."""

    def __init__(self):
        self.handle = HANDLE
        self.launches = None
        self.is_timed = False
        self.num_captures = 0

    def room(self, size, dtype):
        return torch.empty(tuple(size), dtype=dtype)

    def used(self):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def timed(self):
        yield
        self.is_timed = True

    def seconds(self):
        assert self.is_timed
        return SECONDS

    def synchronize(self):
        pass

    def captured(self, launch):
        self.num_captures += 1
        launch()
        self.launches = launches = []
        launch()
        self.launches = None
        return lambda: [again() for again in launches]
