"""What the start of the demo costs: `python benchmarks/start.py`, which runs the demo until its first step, in a temporary folder.

Prints after each part the processor seconds of the process so far, which are the same on a busy machine as on an idle one up to
shared caches, and the elapsed seconds since the process began. Run it twice: the first run may build kernels and compile modules.
"""

import importlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.cli import run_command
from gan_refine.cli.refine import refine

PARTS = {  # a function, and what is done when it returns
    ("gan_refine.run.launch", "build"): "networks, objective and detectors",
    ("gan_refine.run.launch", "make_plan"): "plan",
    ("gan_refine.run.launch", "new_folder"): "references",
    ("gan_refine.run.trainer", "save_teacher_samples"): "original's pickle and pictures",
    ("gan_refine.refine.loop", "optimizer_step"): "first checkpoint, first step",
}


def main() -> int:
    told("command line")
    importlib.import_module("torch")
    told("import torch")
    importlib.import_module("gan_refine.run.launch")
    told("import gan_refine")
    for (module, name), part in PARTS.items():
        watch(module, name, part)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = ["--preset=demo", "--device=cpu", f"--outdir={folder}"]
        return run_command(refine)


def watch(module: str, name: str, part: str) -> None:
    """Tells when the function returns; the last one of PARTS then ends the process."""
    home = importlib.import_module(module)
    call: Callable[..., object] = getattr(home, name)

    def watched(*arguments: object, **options: object) -> object:
        result = call(*arguments, **options)
        told(part)
        if part == [*PARTS.values()][-1]:
            sys.exit(0)
        return result

    setattr(home, name, watched)


def told(part: str) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{used.ru_utime + used.ru_stime:6.2f} s processor  {elapsed():6.2f} s elapsed  {part}", flush=True)


def elapsed() -> float:
    """Seconds since the process began, by Linux's count."""
    begun = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begun


if __name__ == "__main__":
    sys.exit(main())
