"""One thread of PyTorch: sums are then taken in the same order on any number of cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread, also as a decorator of a function.

    Matrix products of two threads differ from those of one in their last digits, and a fit or a
    training makes them larger. Processes side by side use the other cores, and are faster.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)
