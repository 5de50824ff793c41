"""The options of a run, as options.json holds them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gan_refine.config import RefineOptions, parse_spec, require
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.labels import UNIFORM

# What a run that goes on may do differently: nothing of it moves a weight or the choice of the best.
FREE = {"outdir", "desc", "device", "snap", "snap_minutes", "keep", "fid_seeds", "stop_on_collapse", "recompute"}
FREE |= {"tick_images"}


@dataclass(frozen=True)
class RunOptions:
    """Everything that a run depends on; written to options.json."""

    gan: str
    which: str
    teacher: str
    bridge: str
    outdir: str
    desc: str | None
    objective: str
    metrics: str
    detector: str
    fid_ref: str
    fid_seeds: int
    eval_images: int
    teacher_steps: int
    recall: int
    snap: int
    snap_minutes: float
    keep: int
    stop_on_collapse: float
    recompute: bool
    device: str
    trust_pickle: bool
    refine: RefineOptions
    labels: str = UNIFORM
    noise_mode: str = "random"

    def __post_init__(self) -> None:
        require("eval_images", self.eval_images, self.eval_images >= 2, "at least 2")
        require(
            "teacher_steps", self.teacher_steps, self.teacher_steps == 0 or self.teacher_steps >= 2, "0 or at least 2"
        )
        require("fid_seeds", self.fid_seeds, self.fid_seeds >= 0, "at least 0")
        require("recall", self.recall, self.recall == 0 or self.recall > 3, "0, or more than 3 images")
        require("snap", self.snap, self.snap > 0, "a positive number of ticks")
        require("snap_minutes", self.snap_minutes, self.snap_minutes >= 0, "a number of at least 0")
        require("keep", self.keep, self.keep >= 1, "at least 1")
        collapse = self.stop_on_collapse
        require("stop_on_collapse", collapse, collapse == 0 or collapse > 1, "0, or a factor above 1")


def description(options: RunOptions) -> str:
    """The run folder's name: the GAN's, the objective's, the batch."""
    name, _ = parse_spec(options.objective)
    if options.gan.startswith("one-step:"):
        stem = f"one-step-{Path(options.gan.partition(':')[2].partition(',')[0]).stem}"
    else:
        stem = Path(options.gan).stem
    return f"{stem}-{name}-batch{options.refine.batch}"


def read_options(folder: Path) -> RunOptions:
    """What options.json of a run folder holds. Raises FileFormatError."""
    path = folder / "options.json"
    if not path.is_file():
        raise FileFormatError(f"{folder} holds no options.json, so there is no run to go on with; start a new one")
    return options_from_json(path.read_text(), str(path))


def options_from_json(text: str, name: str) -> RunOptions:
    """The inverse of config.to_json. Raises FileFormatError for anything else."""
    try:
        record = json.loads(text)
        return RunOptions(**{**record, "refine": RefineOptions(**record["refine"])})
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise FileFormatError(f"{name} does not hold the options of this version of the program: {error}") from error


def go_on_with(saved: RunOptions, given: RunOptions, named: Iterable[str]) -> RunOptions:
    """The saved options, with those fields of `given` that were named on the command line and may differ.

    Raises OptionError that lists those that may not.
    """
    flat, wanted = ({**asdict(options), **asdict(options.refine)} for options in (saved, given))
    changed = {name: wanted[name] for name in named if wanted[name] != flat[name]}
    refused = [f"{name} {flat[name]} (got {value})" for name, value in changed.items() if name not in FREE]
    if refused:
        raise OptionError(f"a run goes on with its own options, and this one has {', '.join(refused)}; leave them out")
    inner = {name: value for name, value in changed.items() if name in asdict(saved.refine)}
    outer = {name: value for name, value in changed.items() if name not in inner}
    return replace(saved, refine=replace(saved.refine, **inner), **outer)
