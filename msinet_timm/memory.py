"""The C library's allocator, set for work that asks for the same memory over and over."""

import ctypes

__all__ = ['keep_memory']

# The parameters' numbers in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees, instead of giving it back to the system.

    On the CPU, each training step and each batch of images allocates the same large tensors. By default glibc asks the
    system for each of them, which hands out empty pages one by one; that can take longer than the computation. The
    price: the process stays as large as it ever was.

    Returns:
        Whether there is such a setting here: only glibc has it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, 64 * 2**20)])
