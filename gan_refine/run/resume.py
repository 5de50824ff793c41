"""Resuming a run from its folder."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from gan_refine import assets
from gan_refine.config import to_json
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.files import atomic_file, remove_leftovers
from gan_refine.run.build import build
from gan_refine.run.checkpoint import Checkpoints, parse
from gan_refine.run.clock import say
from gan_refine.run.folder import numbered_folders
from gan_refine.run.launch import arithmetic_of, clock_of, drive, introduce, locked
from gan_refine.run.options import (
    FILES,
    RunOptions,
    merge_options,
    options_from_json,
    path_in,
    read_options,
    with_path,
)
from gan_refine.run.plan import make_plan
from gan_refine.run.ranks import PATHS, broadcast_from_rank0


def resume(folder: Path, given: RunOptions, named: Iterable[str]) -> str:
    """Resumes the run in `folder` from its newest whole checkpoint, from the start if there is none.

    `named` are the fields of `given` that the command line names. Raises UserError.
    """
    if not (folder / "options.json").is_file():
        raise FileFormatError(
            f"{folder} holds no options.json, so there is no run to resume; give a run folder, or start a new run"
        )
    with locked(folder):
        text = broadcast_from_rank0(lambda: to_json(read_options(folder)).encode()).decode()
        saved = options_from_json(text, f"{folder}/options.json")
        if saved.trust_pickle and not given.trust_pickle:  # a file of options gives no consent
            raise OptionError(f"the run in {folder} began with --trust-pickle; give it again to resume")
        options = merge_options(find_files(saved, given, named, folder), given, named)
        run = build(replace(options, device=given.device))
        introduce(run)
        longer = options.refine.total_images > saved.refine.total_images
        broadcast_from_rank0(lambda: _tidy(folder, options if longer else None))
        found = _newest(folder)
        _take_threads(None if found is None else found[0].get("threads"))
        with arithmetic_of(run):
            plan = make_plan(run)
        with clock_of(run, plan, begins=found is None) as clock:
            return drive(run, folder, found, clock)


def _take_threads(number: object) -> None:
    """As many threads of torch as the run had, if the machine has the cores: with others its sums would be rounded otherwise."""
    if not isinstance(number, int) or "OMP_NUM_THREADS" in os.environ or number > (os.cpu_count() or 1):
        return
    if number != torch.get_num_threads():
        torch.set_num_threads(number)
        say(f"Threads: {number}, as the run had before.")


def find_files(saved: RunOptions, given: RunOptions, named: Iterable[str], folder: Path) -> RunOptions:
    """The saved options with the files where they are now: where the command line says, or beside the run folder that was moved.

    A file is the same if its SHA-256 is. Raises FileFormatError for one that is gone.
    """
    for name in FILES:
        digest, text = getattr(saved, f"{name}_sha256"), getattr(saved, name)
        told, before = getattr(given, name) if name in named else text, path_in(text)
        now = path_in(told)
        if not digest or before is None or now is None:
            continue
        if told == text and not os.path.isfile(before):
            now = os.path.join(folder, os.path.relpath(before, os.path.join(saved.outdir, folder.name)))
        same = os.path.isfile(now) and assets.sha256(Path(now)) == digest
        if same and with_path(told, before) == text:
            saved = replace(saved, **{name: with_path(text, os.path.realpath(now))})  # type: ignore[arg-type]
        elif told == text and not os.path.isfile(before):
            option = f"--{name.replace('_', '-')}"
            raise FileFormatError(
                f"{before}, the file of {option}, is gone; give {option} where it is now (its SHA-256 is {digest})"
            )
    return saved


def find_run(text: str, outdir: Path) -> Path:
    """The run folder that --resume names: a path, or `latest` for the newest below `outdir`. Raises UserError."""
    found = broadcast_from_rank0(lambda: str(_find_run(text, outdir)).encode(errors=PATHS))
    return Path(found.decode(errors=PATHS))


def _find_run(text: str, outdir: Path) -> Path:
    if text != "latest":
        if not Path(text).is_dir():
            raise FileFormatError(f"--resume={text} is not a folder; give a run folder, or latest")
        return Path(text)
    folders = [] if not outdir.is_dir() else [folder for _, folder in numbered_folders(outdir)]
    runs = [folder for folder in folders if (folder / "options.json").is_file()]
    if not runs:
        raise FileFormatError(f"--resume=latest finds no run below --outdir={outdir}; give the run folder")
    return runs[-1]


def _tidy(folder: Path, extended: RunOptions | None) -> bytes:
    """Removes what a killed process left; writes the options of a run that is to become longer."""
    remove_leftovers(folder)
    if extended is not None:
        with atomic_file(folder / "options.json") as stream:
            stream.write(to_json(extended).encode())
    return b""


def _newest(folder: Path) -> tuple[dict, str] | None:
    """Content and name of the newest whole checkpoint, read by rank 0 for all; damaged ones are named."""

    def read() -> bytes:
        checkpoints = Checkpoints(folder)
        step, skipped = checkpoints.newest()
        for text in skipped:
            tqdm.write(f"Skipped: {text}", file=sys.stderr)
        if step is None:
            return b""
        path = checkpoints.path(step)
        return path.name.encode() + b"\n" + path.read_bytes()

    name, _, data = broadcast_from_rank0(read).partition(b"\n")
    return (parse(data, name.decode()), name.decode()) if name else None
