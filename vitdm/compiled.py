"""Loops over pixels that numpy cannot vectorise well, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile a function; the result is kept on disk, where there is a place to write it."""
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no folder for its cache
        return numba.njit(error_model="numpy")(function)
