"""Whether the workflow runs in this folder, and the lock that a run leaves which was killed.

Snakemake locks its folder by files, which stay there after ``kill -9`` or a power cut. A lock of
the system ends with its process. ``python -m studies.running`` removes files that are left over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

RUNNING = Path(".snakemake/running")  # held by each Snakemake that has read our Snakefile
LOCKS = Path(".snakemake/locks")


def hold() -> None:
    """Note that this process runs the workflow in this folder, until it ends, however it does."""
    fcntl.flock(_opened(), fcntl.LOCK_SH)


def unlock() -> bool:
    """Remove the lock of a run that was killed, and return whether there was one.

    Nothing is removed while a run is alive here, or on file systems without locks.
    """
    descriptor = _opened()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = LOCKS.is_dir() and any(LOCKS.iterdir())
        if left:
            shutil.rmtree(LOCKS)
        return left
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _opened() -> int:
    RUNNING.parent.mkdir(exist_ok=True)
    return os.open(RUNNING, os.O_RDWR | os.O_CREAT)


if __name__ == "__main__" and unlock():
    print("The lock of a run that was killed is removed; no other run is alive here.")
