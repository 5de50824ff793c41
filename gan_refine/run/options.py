"""The options of a run, as options.json holds them."""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gan_refine.config import (
    DEFAULT_STEPS,
    IMAGES,
    NUM_IMAGES,
    POSITIVE,
    SETS,
    STEPS,
    UNIFORM,
    WHITENING,
    Range,
    RefineOptions,
    parse_path_spec,
    parse_spec,
    require,
    require_ranges,
)
from gan_refine.errors import FileFormatError, OptionError

AUTO = "auto"
DEFAULT_PAIR = "fashion16"
FORMER_LOSSES = ("imagenet=0", "relativistic=false")  # of di-gan, for runs whose record does not have these options yet
LONGEST_NAME = 100  # characters of a run folder's description, far below what file systems take
NAME_ALLOWED = (
    f"a name of 1 to {LONGEST_NAME} characters without / and control characters, which does not start with a dot"
)
RANGES = {
    "whiten_w": WHITENING,
    "eval_images": IMAGES,
    "teacher_steps": replace(STEPS, or_0=True),
    "fid_seeds": replace(SETS, low=0),
    "snap": POSITIVE,
    "snap_minutes": Range(0, 1e6),
    "keep": Range(1, 10**6),
    "stop_on_collapse": Range(1, 1e9, above=True, or_0=True),
}
FILES = ("gan", "teacher", "fid_ref")  # options that can name a file, with NAME_sha256 beside each

KIMG = {
    "kimg": "total_images",
    "warmup_kimg": "warmup_images",
    "ema_kimg": "ema_halflife_images",
    "tick": "tick_images",
}  # options in thousands of images -> fields of RefineOptions
FLAGS = ("recompute", "trust_pickle", "report", "tensorboard", "wandb")

# What a resumed run may change: nothing of it moves a weight or the choice of the best snapshot.
FREE = {"outdir", "device", "snap", "snap_minutes", "keep", "fid_seeds", "stop_on_collapse", "recompute"}
FREE |= {"tick_images", "trust_pickle", "report", "tensorboard", "wandb"}


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
    whiten_w: float | None = None  # power of the whitening of w before the first step; None: the objective's default
    outdir: str = "training-runs"
    desc: str | None = None
    preset: str = AUTO
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
    stop_on_collapse: float = 1.25
    precision: str = AUTO
    recompute: bool = False
    report: bool = True
    tensorboard: bool = False
    wandb: bool = False
    device: str = "cpu"
    trust_pickle: bool = False
    labels: str = UNIFORM
    noise_mode: str = "random"
    refine: RefineOptions = field(default_factory=RefineOptions)
    gan_sha256: str = ""
    teacher_sha256: str = ""
    fid_ref_sha256: str = ""

    def __post_init__(self) -> None:
        require_ranges(self, RANGES)
        if self.desc is not None:
            require("desc", self.desc, is_file_name(self.desc), NAME_ALLOWED)


def is_file_name(text: str) -> bool:
    """Whether a folder can be called so on every usual system."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and not set("/\\") & set(text) and text[0] != "."


def description(options: RunOptions) -> str:
    """The name of the run folder after its number: the GAN's, the objective's, the batch size."""
    name, _ = parse_spec(options.objective)
    prefix, colon, rest = options.gan.partition(":")
    one_step = colon and prefix == "one-step"
    stem = f"one-step-{Path(parse_path_spec(rest)[0]).stem}" if one_step else Path(options.gan).stem
    return f"{stem[:LONGEST_NAME]}-{name}-batch{options.refine.batch}"


def absolute(text: str) -> str:
    """An option that names a network or a reference, with a local path made absolute; names and URLs stay.

    Paths also stand after `one-step:` and as `path=` in a spec such as `inception,path=FILE`.
    """
    found = path_in(text)
    if found is None or not (os.path.exists(found) or f"path={found}" in text):
        return text
    return with_path(text, os.path.realpath(found))


def path_in(text: str) -> str | None:
    """The local path in an option that names a network, a detector or a reference; None for names and URLs."""
    from gan_refine import assets  # here: --help imports this module and not torch
    from gan_refine.metrics import DETECTORS, PIXELS

    prefix, colon, rest = text.partition(":")
    if colon and prefix == "one-step":
        return path_in(rest)
    if "://" in text:
        return None
    head, options = parse_path_spec(text)
    named = head in {AUTO, "teacher", PIXELS, *DETECTORS} or head in assets.catalog() or head in assets.public_files()
    return options.get("path", None if named else head)


def with_path(text: str, path: str) -> str:
    """The option with another local path."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "one-step":
        return f"{prefix}:{with_path(rest, path)}"
    head, options = parse_path_spec(text)
    head = head if "path" in options else path
    return ",".join([head, *(f"{key}={path if key == 'path' else value}" for key, value in options.items())])


def file_digest(text: str) -> str:
    """The SHA-256 of the file of the local path in an option; empty if it names none."""
    from gan_refine import assets

    found = path_in(text)
    return assets.sha256(Path(found)) if found is not None and os.path.isfile(found) else ""


def read_options(folder: Path) -> RunOptions:
    """What options.json of a run folder holds. Raises FileFormatError."""
    path = folder / "options.json"
    if not path.is_file():
        raise FileFormatError(
            f"{folder} holds no options.json, so it is not the folder of a run; "
            "give one such as training-runs/00000-NAME"
        )
    return options_from_json(path.read_text(), str(path))


def options_from_json(text: str, name: str) -> RunOptions:
    """The inverse of config.to_json. Raises FileFormatError for anything else."""
    try:
        record = with_former_defaults(json.loads(text))
        nested = {"detector": tuple(record["detector"]), "refine": RefineOptions(**record["refine"])}
        return RunOptions(**{**record, **nested})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{name} does not hold the options of this version of the program: {error}") from error


def with_former_defaults(record: dict) -> dict:
    """The record of a run with what it left out: the options that came later, as all runs had them before there was a choice."""
    objective = record["objective"]
    if objective.startswith("di-gan,"):
        objective += "".join(f",{name}" for name in FORMER_LOSSES if f",{name.partition('=')[0]}=" not in objective)
    return {"whiten_w": 0.0, **record, "objective": objective}


def argument(field: str, value: object) -> str:
    """The option of a field with its value, as on a command line."""
    in_kimg = {images: option for option, images in KIMG.items()}
    name = in_kimg.get(field, field).replace("_", "-")
    if field in FLAGS:
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, tuple):
        return " ".join(f"--{name}={shlex.quote(each)}" for each in value)
    text = repr(value / 1000) if field in in_kimg and isinstance(value, int) else str(value)
    return f"--{name}={shlex.quote(text)}"


def merge_options(saved: RunOptions, given: RunOptions, named: Iterable[str]) -> RunOptions:
    """The saved options, with those fields of `given` that the command line names and that may differ.

    `auto` asks for nothing; a run may become longer. Raises OptionError that lists the fields that may not differ.
    """
    from gan_refine.objectives import complete_spec

    flat, wanted = ({**asdict(options), **asdict(options.refine)} for options in (saved, given))
    for name in FILES:
        wanted[name] = absolute(wanted[name])
    wanted["detector"] = tuple(absolute(each) for each in wanted["detector"])
    if wanted["objective"] != AUTO:
        wanted["objective"] = complete_spec(wanted["objective"])
    changed = {name: wanted[name] for name in named if wanted[name] not in (AUTO, (AUTO,), flat[name])}
    longer = {"total_images"} if changed.get("total_images", 0) > flat["total_images"] else set()
    fixed = {name: value for name, value in changed.items() if name not in FREE | longer}
    refused = [f"{argument(name, flat[name])} (got {argument(name, value)})" for name, value in fixed.items()]
    if refused:
        shorter = "; it may become longer, not shorter" if "total_images" in fixed else ""
        raise OptionError(
            f"a resumed run keeps its options, and this one has {', '.join(refused)}; leave them out{shorter}"
        )
    inner = {name: value for name, value in changed.items() if name in asdict(saved.refine)}
    outer = {name: value for name, value in changed.items() if name not in inner}
    return replace(saved, refine=replace(saved.refine, **inner), **outer)
