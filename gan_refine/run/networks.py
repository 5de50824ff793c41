"""The networks that --gan and --teacher name: files, URLs, names of the catalog, and `one-step:TEACHER,sigma=2.5`."""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.config import build_options, parse_path_spec, shortened
from gan_refine.errors import OptionError
from gan_refine.evaluation import Teacher
from gan_refine.generators import OneStepOptions, PretrainedGenerator, load_pretrained, one_step_of
from gan_refine.pickles import DEFAULT_NETWORK, build_teacher, is_state_dict, read_networks
from gan_refine.teachers import TEACHERS, edm_network

ONE_STEP = "one-step"
TRUSTED = "trusted"  # the name in GENERATORS and TEACHERS of what runs a file's own code


@dataclass(frozen=True)
class Gan:
    """What --gan names: its file, the generator in it, and `load`, which reads the file again."""

    path: Path
    generator: PretrainedGenerator
    load: Callable[[], PretrainedGenerator]


def open_gan(text: str, which: str = "G_ema", trust: bool = False, teacher: Teacher | None = None) -> Gan:
    """The generator of a --gan option; its file is opened and parsed once. Raises UserError.

    It is on the CPU, except that a one-step generator of `teacher`'s file copies the network that is open already. With `trust`
    that network may be of any class, and the file is read again without running it.
    """
    if text.partition(":")[0] == ONE_STEP:
        return _one_step(text, which, None if trust else teacher)
    path = assets.resolve("gan", text)
    trusted = family("data", text, path, trust) == TRUSTED

    def load() -> PretrainedGenerator:
        return load_pretrained(path, which, trusted)

    return Gan(path, load(), load)


def _one_step(text: str, which: str, teacher: Teacher | None) -> Gan:
    given, options = parse_path_spec(text.partition(":")[2])
    if which != DEFAULT_NETWORK:
        raise OptionError(f"--which={which} is for files of several networks, and {ONE_STEP} names one; leave it out")
    if not given:
        raise OptionError(f"--gan={text} names no teacher; write one-step:FILE,sigma=2.5")
    path = assets.resolve("teacher", given)
    chosen = build_options(OneStepOptions, options, f"--gan={ONE_STEP}:{shortened(given)}")

    def load() -> PretrainedGenerator:
        return one_step_of(build_teacher(read_networks(path)), path.name, chosen)

    opened = edm_network(teacher.denoiser) if teacher is not None and teacher.path == path else None
    if opened is not None:
        return Gan(path, one_step_of(copy.deepcopy(opened), path.name, chosen), load)
    return Gan(path, load(), load)


def open_teacher(text: str, trust: bool, device: str) -> Teacher:
    """The denoiser of a --teacher option, on the device. Raises UserError."""
    path = assets.resolve("teacher", text)
    return Teacher(path, TEACHERS[family("edm", text, path, trust)](path).to(torch.device(device)))


def family(default: str, text: str, path: Path, trust: bool) -> str:
    """The name in GENERATORS or TEACHERS of what opens `path`, which the user called `text`: `default` unless it is trusted.

    Embedded and public names, and files that hold data alone, are read without running anything even then. Warns on
    standard error before a file runs. Raises OptionError for one that came over an unprotected connection.
    """
    named = text in assets.catalog() or text in assets.public_files()
    if not trust or named or is_state_dict(path):
        return default
    if text.lower().startswith("http:"):
        raise OptionError(f"{text} came over http, where anyone could change it; --trust-pickle takes https and paths")
    tqdm.write(warning(path), file=sys.stderr)
    return TRUSTED


def warning(path: Path) -> str:
    """What trusting means, for this file."""
    return (
        f"WARNING: --trust-pickle RUNS THE PROGRAM INSIDE {path}\n"
        "WARNING: with all your rights: it can read, change, delete and send whatever you can, now and later.\n"
        f"WARNING: Its SHA-256 is {assets.sha256(path)}; compare it with what its author published."
    )
