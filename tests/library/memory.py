"""A bound for the memory of a test."""

import contextlib
import resource
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")


@contextlib.contextmanager
def bounded(more=1 << 30):
    """Let the process have only ``more`` bytes more; what asks for more raises MemoryError."""
    if not STATM.exists():
        pytest.skip("the size of a process is told in /proc only")
    used = int(STATM.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
