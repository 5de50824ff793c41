"""What a process sets before it imports torch: threads that sleep, as many as it may use, and memory that it keeps."""

import ctypes
import os
import sys
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST = 2**30  # bytes of a tensor that is taken from kept memory


def prepare_process() -> None:
    """Call it before torch is imported. Environment variables of the user win."""
    # Threads that wait for work otherwise spin, and take the time of whatever else runs on their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quota = cores_of_quota(CPU_QUOTA.read_text()) if CPU_QUOTA.is_file() else None
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))
    keep_memory()


def cores_of_quota(text: str) -> int | None:
    """The whole cores, at least one, that a control group's cpu.max grants; None without a limit."""
    quota, period = text.split()
    return None if quota == "max" else max(int(quota) // int(period), 1)


def keep_memory() -> bool:
    """Tells glibc to keep what tensors free, which it otherwise returns and takes again page by page; False without glibc."""
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries of C have none
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
