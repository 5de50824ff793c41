"""What `gan-refine convert` does: networks from one file format into another, without running anything in them."""

import os
import sys
from pathlib import Path

import torch

from gan_refine.errors import FileFormatError, OptionError
from gan_refine.files import require_writable
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.pickles import (
    DEFAULT_NETWORK,
    TEACHER_KEYS,
    NetworkFile,
    PickleFile,
    StateDict,
    build_discriminator,
    build_generator,
    build_teacher,
    foreign_discriminator,
    one_step_sigma,
    read_networks,
    run_pickle_file,
    write_gan,
    write_networks,
    write_state_dict,
)
from gan_refine.run.networks import TRUSTED, family

PICKLE, STATE_DICT = ".pkl", ".safetensors"


def convert(source: Path, destination: Path, which: str, trust_pickle: bool) -> None:
    """Writes `destination` and prints the names of what is written. Raises UserError before anything is."""
    check_destination(source, destination)
    trust = trust_pickle and family("data", str(source), source, trust_pickle) == TRUSTED
    for path in convert_file(source, destination, which, trust):
        print(path, flush=True)
    to_state_dict = destination.suffix.lower() == STATE_DICT and not trust
    sigma = one_step_sigma(read_networks(source)) if to_state_dict else None
    if sigma is not None:
        print(f"A state dict holds no sigma: open it with --gan=one-step:{destination},sigma={sigma}.", file=sys.stderr)


def check_destination(source: Path, destination: Path) -> None:
    """Raises OptionError for an unknown suffix and for a destination that is the source."""
    if destination.suffix.lower() not in (PICKLE, STATE_DICT):
        raise OptionError(f"{destination} does not end in {PICKLE} or {STATE_DICT}; the suffix chooses the format")
    if destination.is_dir():
        raise OptionError(f"{destination} is a folder; give a file in it")
    same = destination.exists() and source.exists() and os.path.samefile(source, destination)
    if same or source.resolve() == destination.resolve():
        raise OptionError(f"IN and OUT are the same file, {source}; choose another name for OUT")
    if not destination.parent.is_dir():
        raise OptionError(f"there is no folder {destination.parent} for OUT; make it, or choose another")
    require_writable("OUT", destination.parent)


def convert_file(source: Path, destination: Path, which: str = DEFAULT_NETWORK, trust: bool = False) -> list[Path]:
    """Writes `destination` in the format of its suffix, atomically, and returns what was written. Raises FileFormatError.

    With `trust` the file is run; what is written has this package's source and can be read without running it.
    """
    file = _trusted_networks(source) if trust else read_networks(source)
    if which != DEFAULT_NETWORK and (is_teacher(file) or destination.suffix.lower() != STATE_DICT):
        kind = "a teacher's file has one network" if is_teacher(file) else f"{PICKLE} files get all networks"
        raise OptionError(f"--which={which} has no use: {kind}; leave it out")
    if destination.suffix.lower() == STATE_DICT:
        write_state_dict(destination, the_network(file, which))
        return [destination, destination.with_suffix(".json")]
    if isinstance(file, PickleFile) and file.keeps_its_bytes and not trust:
        raise FileFormatError(f"{source} is a PyTorch pickle already; OUT can end in {STATE_DICT}")
    if is_teacher(file):
        write_networks(destination, {"ema": build_teacher(file)})
    elif isinstance(file, StateDict):
        net = build_generator(file, which)
        write_gan(destination, net, None, net)
    else:
        left_out = foreign_discriminator(file)
        if left_out is not None:
            print(f"Left out: its discriminator is {left_out}.", file=sys.stderr)
        generator = build_generator(file, DEFAULT_NETWORK)
        both = isinstance(file, PickleFile) and ("G" in file.networks() or bool(file.tensorflow()))
        write_gan(destination, build_generator(file, "G") if both else generator, build_discriminator(file), generator)
    return [destination]


def _trusted_networks(source: Path) -> PickleFile:
    opened = run_pickle_file(source)
    for text in opened.left_out():
        print(f"Left out: {text}.", file=sys.stderr)
    return opened.networks_only()


def the_network(file: NetworkFile, which: str) -> torch.nn.Module:
    """The teacher if the file holds one, else the generator."""
    return build_teacher(file) if is_teacher(file) else build_generator(file, which)


def is_teacher(file: NetworkFile) -> bool:
    """True for EDM networks."""
    if isinstance(file, StateDict):
        return file.class_name in PRECONDITIONINGS
    networks = file.networks()
    return any(key in networks and networks[key].class_name in PRECONDITIONINGS for key in TEACHER_KEYS)
