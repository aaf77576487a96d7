"""One thread of computation: sums are then taken in the same order on any number of cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import threadpoolctl
import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and the linear algebra of NumPy and SciPy compute in one thread each.

    Also a decorator of a function. Matrix products of two threads differ from those of one in their
    last digits, and a fit or a training makes them larger. Processes side by side use the other
    cores, and are faster.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(n)
