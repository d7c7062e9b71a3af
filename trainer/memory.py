"""How the allocator treats freed memory."""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory in the heap for the next step instead of giving it back to the kernel.

    A training step frees and takes hundreds of megabytes; faulting them in again each time costs as much as the
    arithmetic (docs/design/0004). Elsewhere than glibc nothing happens. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
        mallopt(option, value)
