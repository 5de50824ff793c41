"""What a checkpoint holds beside the loop's state, and what is checked around saving and going on."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_refine import assets
from gan_refine.checkpoint import Checkpoints, damage, parse
from gan_refine.cli.wiring import Run
from gan_refine.errors import MismatchError, UserError
from gan_refine.refine import RefineState, load_tensors
from torch_utils import distributed

SLACK = 8 * 2**20  # logs, pictures, summary


@dataclass
class Story:
    """What a run has found out so far, beside its weights."""

    kimg: float = 0.0
    ticks: int = 0
    before: float | None = None
    best: float | None = None
    best_kimg: float = 0.0
    best_step: int | None = None  # whose checkpoint is kept; None while the original is the best
    best_digest: str | None = None  # of the best pickle
    teacher_value: float | None = None
    recall_before: float | None = None
    recall: float | None = None  # of the best pickle
    first_nats: float | None = None
    last_nats: float | None = None  # of a later tick than the first's; pools have one estimate each
    seconds: float = 0.0
    pending: bool = False  # a snapshot was due and is not done


def needed_space(run: Run, state: RefineState, checkpoints: int) -> int:
    """Bytes that so many checkpoints take, with the pickles and all that is small."""
    pickles = 3 * run.gan.path.stat().st_size
    return checkpoints * state.expected_bytes() + pickles + SLACK


def check_replicas(state: RefineState) -> None:
    """Raises UserError unless all processes hold the same weights and moments, bit for bit. Every process must call it."""
    if distributed.get_world_size() == 1:
        return
    for name, digest in state.fingerprints().items():
        digests = distributed.gather_across(torch.frombuffer(bytearray(digest), dtype=torch.uint8)[None])
        strangers = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]
        if strangers:
            raise UserError(
                f"the replicas have drifted apart: {name} of process {strangers[0]} is not that of process 0; "
                "go on from the last checkpoint, and suspect the hardware if it happens again"
            )


def restore_best(run: Run, story: Story, checkpoints: Checkpoints, best_path: Path, say: Callable[[str], None]) -> None:
    """Makes the best pickle that of the checkpoint gone back to: the file may be from a state that was lost since."""
    if best_path.is_file() and assets.sha256(best_path) == story.best_digest:
        return
    step = story.best_step
    reason = None if step is None else _absence(checkpoints.path(step))
    if reason is not None:
        say(f"{reason}, and with it the best pickle of {story.best_kimg:g} kimg; the original is the best so far.")
        story.best, story.recall, story.best_kimg, step = story.before, story.recall_before, 0.0, None
    if step is None:
        run.gan.write_original(best_path)
    else:
        path = checkpoints.path(step)
        generator = copy.deepcopy(run.generator)
        load_tensors(generator, parse(path.read_bytes(), path.name)["state"]["average"])
        generator.export(best_path)
    story.best_step, story.best_digest = step, assets.sha256(best_path)


def _absence(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is gone"
    reason = damage(path)
    return None if reason is None else f"{path.name} {reason}"


def check_header(content: dict, run: Run, name: str) -> None:
    """Raises MismatchError unless the checkpoint is of this format and began with these very files."""
    mine = run.header
    if content.get("format") != mine["format"]:
        raise MismatchError(f"{name} is of format {content.get('format')}; this version reads {mine['format']}")
    for kind in ("gan", "teacher"):
        if content["sha256"][kind] != mine["sha256"][kind]:
            raise MismatchError(f"the file of --{kind} is not the one that {name} began with; restore it")
