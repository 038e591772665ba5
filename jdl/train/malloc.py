"""Settings of glibc's malloc: memory that a step on a CPU frees is reused by the next step."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # as glibc's malloc.h numbers them


def keep_memory() -> None:
    """Makes glibc's malloc keep freed memory instead of returning it to the kernel.

    XLA's CPU backend allocates the temporary arrays of every step anew, and fresh pages from the
    kernel cost a third of a GPT's step (docs/speed.md). Call it before JAX starts its threads,
    which would otherwise have their own heaps. Numbers do not change. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(ARENA_MAX, 1)  # one heap for all threads: others cannot grow to such arrays
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
