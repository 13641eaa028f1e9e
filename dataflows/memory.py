"""How a flow's memory is managed: one heap, so that what a thread or Arrow has freed is used by all others again, and
few searches for what refers to itself."""

import ctypes
import gc

import pyarrow as pa

_M_ARENA_MAX = -8  # of glibc's mallopt, which is asked for it here because an environment is read before Python starts


def share_memory() -> None:
    """Call it before the flow's clients start their threads.

    glibc gives threads heaps of their own, where what librdkafka and gRPC have freed stays unused, and Arrow's own
    allocator is one more: 345 MB instead of 400 at 100,000 contents, at the same speed."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
    pa.set_memory_pool(pa.system_memory_pool())


def collect_rarely() -> None:
    """Call it when everything is imported and built.

    The hot path makes thousands of objects per batch and hardly a cycle among them; searching for cycles after every
    700 of them was 13 % of the CPU of a flow. What is there by now stays, and is not searched again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
