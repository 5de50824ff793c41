"""What a process sets before it imports torch: threads that sleep, as many as it may use, and memory that it keeps."""

import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CPU_TIMES = Path("/proc/stat")
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


@dataclass(frozen=True)
class Usage:
    """Seconds so far: of the clock, and of processor time by the whole machine and by this process."""

    clock: float
    machine: float
    own: float

    def cores_of_others(self, before: "Usage") -> float:
        """How many cores other programs kept busy since then."""
        elapsed = self.clock - before.clock
        return (self.machine - before.machine - (self.own - before.own)) / elapsed if elapsed else 0.0


def usage() -> Usage | None:
    """That of now; None where the system does not tell."""
    if not CPU_TIMES.is_file():
        return None
    words = CPU_TIMES.read_text().splitlines()[0].split()
    user, nice, system, _, _, *interrupts_and_stolen = (int(word) for word in words[1:9])
    machine = (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")
    return Usage(time.monotonic(), machine, time.process_time())


STARTED = usage()


def share_cores() -> None:
    """Takes as many threads of torch as other programs leave cores, judged by the time since this module was imported, and says so.

    A thread that shares its core holds up all others. Nothing changes where OMP_NUM_THREADS is set, a control group or an affinity
    gives this process cores of its own, or the system does not tell.
    """
    cores, now = os.cpu_count() or 1, usage()
    if STARTED is None or now is None or "OMP_NUM_THREADS" in os.environ or len(os.sched_getaffinity(0)) < cores:
        return
    import torch

    others = now.cores_of_others(STARTED)
    threads = max(cores - round(others), 1)
    if threads < torch.get_num_threads():
        torch.set_num_threads(threads)
        reason = f"because other programs keep {others:.1f} cores busy; OMP_NUM_THREADS sets another number"
        print(f"Threads: {threads} of {cores}, {reason}.", file=sys.stderr)


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
