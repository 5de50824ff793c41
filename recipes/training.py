"""What the trainings share: a checkpoint that survives interruption, the origin record of what was made, the rate's course."""

import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from gan_refine.cli.process import keep_memory
from gan_refine.files import atomic_file


def prepare(threads: int) -> None:
    """What a training sets first: so many threads, and memory that is kept."""
    keep_memory()
    torch.set_num_threads(threads)


def learning_rate(done: float) -> float:
    """Share of the highest rate: warm-up over the first 2 %, constant to one half, then a cosine to 0; `done` is from 0 to 1."""
    return min(done / 0.02, 1.0) * (1.0 if done < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * done - 1))))


def hardware() -> str:
    """Processor and thread count, or the GPU's name, in one line."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return f"{cpu}, {torch.get_num_threads()} thread(s)"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit() -> str:
    """The commit of this checkout, with '+' if tracked files differ from it."""
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here).returncode != 0
    return (head or "unknown") + ("+" if dirty else "")


class Checkpoint:
    """State and origin of one training run in one file, written atomically, loadable with weights_only.

    `seconds` adds up over interruptions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.time()
        self.seconds_before = 0.0
        self.origin: dict[str, str | float] = {
            "command": _command(),
            "commit": commit(),
            "hardware": hardware(),
            "torch": str(torch.__version__),
        }
        self.origin.update(seconds=0.0, images=0)

    def load(self) -> dict | None:
        """The saved state, or None for a new run; earlier seconds count on."""
        if not self.path.exists():
            return None
        saved = torch.load(self.path, weights_only=True)
        self.origin = json.loads(saved["origin"])
        self.seconds_before = float(self.origin["seconds"])
        return saved["state"]

    def save(self, state: dict, images: int) -> None:
        self.origin.update(seconds=round(self.seconds_before + time.time() - self.started, 1), images=images)
        with atomic_file(self.path) as stream:
            torch.save({"state": state, "origin": json.dumps(self.origin)}, stream)


def _command() -> str:
    return " ".join(["python", *sys.argv])
