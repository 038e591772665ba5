"""Settings of glibc's malloc: the memory that a step on a CPU frees is kept for the next step."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # as glibc's malloc.h numbers them


def keep_memory() -> None:
    """Makes malloc keep what is freed instead of returning it to the kernel, where it is glibc's.

    XLA's CPU backend allocates the temporary arrays of every step anew, and fresh pages from the
    kernel cost a third of a GPT's step (docs/speed.md). To be called before JAX starts its threads,
    which would have heaps of their own. The bits of what is computed stay the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(ARENA_MAX, 1)  # one heap for all threads: others cannot grow to such arrays
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
