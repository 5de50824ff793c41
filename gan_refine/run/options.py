"""The options of a run, as options.json holds them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gan_refine import assets
from gan_refine.config import RefineOptions, parse_spec, require
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.evaluation import NUM_IMAGES
from gan_refine.labels import UNIFORM
from gan_refine.metrics import DETECTORS, PIXELS
from gan_refine.objectives import complete_spec
from gan_refine.sampling import DEFAULT_STEPS

AUTO = "auto"
DEFAULT_PAIR = "fashion16"
NAMES = {AUTO, "teacher", PIXELS, *DETECTORS}  # what --detector and --fid-ref never take for paths

# What a resumed run may change: nothing of it moves a weight or the choice of the best snapshot.
FREE = {"outdir", "desc", "device", "snap", "snap_minutes", "keep", "fid_seeds", "stop_on_collapse", "recompute"}
FREE |= {"tick_images", "trust_pickle"}


@dataclass(frozen=True)
class RunOptions:
    """Everything that a run depends on.

    Those of a command line may hold `auto`. options.json has them resolved (see `build.resolve`): no `auto` but in `fid_ref`, where
    it means the embedded references, absolute paths, and the digests of both network files, so that no later default and no other
    current folder changes the run.
    """

    gan: str = DEFAULT_PAIR
    which: str = "G_ema"
    teacher: str = DEFAULT_PAIR
    bridge: str = "none"
    outdir: str = "training-runs"
    desc: str | None = None
    objective: str = AUTO
    metrics: str = AUTO
    detector: tuple[str, ...] = (AUTO,)
    fid_ref: str = AUTO
    fid_seeds: int = 3
    eval_images: int = NUM_IMAGES
    teacher_steps: int = DEFAULT_STEPS
    snap: int = 1
    snap_minutes: float = 0
    keep: int = 2
    stop_on_collapse: float = 0
    recompute: bool = False
    device: str = "cpu"
    trust_pickle: bool = False
    labels: str = UNIFORM
    noise_mode: str = "random"
    refine: RefineOptions = field(default_factory=RefineOptions)
    gan_sha256: str = ""
    teacher_sha256: str = ""

    def __post_init__(self) -> None:
        steps, collapse = self.teacher_steps, self.stop_on_collapse
        require("eval_images", self.eval_images, self.eval_images >= 2, "at least 2")
        require("teacher_steps", steps, steps == 0 or steps >= 2, "0 or at least 2")
        require("fid_seeds", self.fid_seeds, self.fid_seeds >= 0, "at least 0")
        require("snap", self.snap, self.snap > 0, "a positive number of ticks")
        require("snap_minutes", self.snap_minutes, self.snap_minutes >= 0, "a number of at least 0")
        require("keep", self.keep, self.keep >= 1, "at least 1")
        require("stop_on_collapse", collapse, collapse == 0 or collapse > 1, "0, or a factor above 1")


def description(options: RunOptions) -> str:
    """The name of the run folder after its number: the GAN's, the objective's, the batch size."""
    name, _ = parse_spec(options.objective)
    if options.gan.startswith("one-step:"):
        stem = f"one-step-{Path(options.gan.partition(':')[2].partition(',')[0]).stem}"
    else:
        stem = Path(options.gan).stem
    return f"{stem}-{name}-batch{options.refine.batch}"


def absolute(text: str) -> str:
    """An option that names a network or a reference, with a local path made absolute; names and URLs stay.

    Paths also stand after `one-step:` and as `path=` in a spec such as `inception,path=FILE`.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "one-step":
        return f"{prefix}:{absolute(rest)}"
    head, *options = text.split(",")
    named = head in NAMES or head in assets.catalog() or head in assets.public_files()
    parts = [str(Path(head).resolve()) if Path(head).exists() and not named else head]
    for option in options:
        key, equals, value = option.partition("=")
        parts.append(f"path={Path(value).resolve()}" if key == "path" and equals else option)
    return ",".join(parts)


def read_options(folder: Path) -> RunOptions:
    """What options.json of a run folder holds. Raises FileFormatError."""
    path = folder / "options.json"
    if not path.is_file():
        raise FileFormatError(f"{folder} holds no options.json, so there is no run to resume; start a new one")
    return options_from_json(path.read_text(), str(path))


def options_from_json(text: str, name: str) -> RunOptions:
    """The inverse of config.to_json. Raises FileFormatError for anything else."""
    try:
        record = json.loads(text)
        nested = {"detector": tuple(record["detector"]), "refine": RefineOptions(**record["refine"])}
        return RunOptions(**{**record, **nested})
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise FileFormatError(f"{name} does not hold the options of this version of the program: {error}") from error


def merge_options(saved: RunOptions, given: RunOptions, named: Iterable[str]) -> RunOptions:
    """The saved options, with those fields of `given` that the command line names and that may differ.

    `auto` asks for nothing. Raises OptionError that lists the fields that may not differ.
    """
    flat, wanted = ({**asdict(options), **asdict(options.refine)} for options in (saved, given))
    for name in ("gan", "teacher", "fid_ref"):
        wanted[name] = absolute(wanted[name])
    wanted["detector"] = tuple(absolute(each) for each in wanted["detector"])
    if wanted["objective"] != AUTO:
        wanted["objective"] = complete_spec(wanted["objective"])
    changed = {name: wanted[name] for name in named if wanted[name] not in (AUTO, (AUTO,), flat[name])}
    refused = [f"{name} {flat[name]} (got {value})" for name, value in changed.items() if name not in FREE]
    if refused:
        raise OptionError(f"a resumed run keeps its options, and this one has {', '.join(refused)}; leave them out")
    inner = {name: value for name, value in changed.items() if name in asdict(saved.refine)}
    outer = {name: value for name, value in changed.items() if name not in inner}
    return replace(saved, refine=replace(saved.refine, **inner), **outer)
