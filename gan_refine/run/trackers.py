"""The figures of a run for the tools that draw them as it goes: TensorBoard and Weights & Biases, each an optional extra."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from gan_refine.errors import UserError
from gan_refine.run.options import RunOptions

EXTRAS = ("tensorboard", "wandb")


class Tracker(ABC):
    """A tool that gets every figure that a run writes into its folder."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Figures by name, after so many images."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is not written yet."""


class TensorBoard(Tracker):
    """Event files in the folder `tensorboard` of the run folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, figures: Mapping[str, float], images: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, images)

    def close(self) -> None:
        self.writer.close()


class Wandb(Tracker):
    """A run in the project gan_refine, under the name of the run folder; resumed runs go on in it."""

    def __init__(self, folder: Path) -> None:
        import wandb

        key = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
        chosen = {
            "name": folder.name,
            "id": f"{folder.name}-{key}",
            "dir": str(folder),
        }  # two folders may have one name
        self.run = wandb.init(project="gan_refine", resume="allow", **chosen)

    def log(self, figures: Mapping[str, float], images: int) -> None:
        self.run.log({**figures, "images": images})

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def check_trackers(options: RunOptions) -> None:
    """Raises UserError, before a run begins, for a tool that is asked for and not installed."""
    for name in EXTRAS:
        if getattr(options, name) and find_spec(name) is None:
            raise UserError(f"--{name} needs the package {name}; run: pip install {name}, or leave the option out")


def open_trackers(options: RunOptions, folder: Path, writes: bool) -> list[Tracker]:
    """The tools that the options ask for; none on processes that do not write."""
    return [TRACKERS[name](folder) for name in EXTRAS if writes and getattr(options, name)]


def figures_of(record: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a JSON line: those of lists by band of sigma, those of nested records by their own names."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= figures_of(value)
        elif isinstance(value, list):
            found |= {f"{name}/band{i}": float(each) for i, each in enumerate(value) if isinstance(each, int | float)}
        elif isinstance(value, int | float) and name not in ("kimg", "total_time", "ddof", "reference_ddof"):
            found[name] = float(value)
    return found
