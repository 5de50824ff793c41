"""What a run has found out so far, and what is checked when it is saved and resumed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gan_refine import assets
from gan_refine.errors import MismatchError, UserError
from gan_refine.foundation import distributed
from gan_refine.refine import RefineState, expected_bytes, fingerprints, load_tensors
from gan_refine.run.build import Run
from gan_refine.run.checkpoint import Checkpoints, damage, parse
from gan_refine.run.choice import Ranked, choose

SLACK = 8 * 2**20  # bytes for logs, pictures and the summary


@dataclass
class RunHistory:
    """The figures of a run so far; part of each checkpoint."""

    kimg: float = 0.0
    ticks: int = 0
    before: float | None = None
    best: float | None = None  # of the chosen snapshot; the original's until one is chosen
    lowest: float | None = None  # of all so far; None: that of the best
    lowest_left_out: tuple[float, ...] = ()
    best_kimg: float = 0.0
    best_step: int | None = None  # whose checkpoint is kept; None while the original is the best
    best_digest: str | None = None  # SHA-256 of the best pickle
    first_nats: float | None = None
    last_nats: float | None = None  # of a later tick than the first's
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # of them, by phase
    pending: bool = False  # a snapshot was due and is not done

    def chooses(self, snapshot: Ranked) -> bool:
        """Whether a measured snapshot takes the place of the best. From then on later ones must match it."""
        assert self.before is not None and self.best is not None, "the original is measured first"
        lowest = Ranked(self.best if self.lowest is None else self.lowest, tuple(self.lowest_left_out))
        chosen = choose(Ranked(self.before), [lowest, snapshot]) == 1
        least = min(lowest, snapshot, key=lambda each: each.value)
        self.lowest, self.lowest_left_out = least.value, least.left_out
        return chosen


def needed_space(run: Run, state: RefineState, checkpoints: int) -> int:
    """Bytes of so many checkpoints, with the pickles and small files."""
    pickles = 3 * run.gan.path.stat().st_size
    return checkpoints * expected_bytes(state) + pickles + SLACK


def check_replicas(state: RefineState) -> None:
    """Raises UserError unless all processes hold the same weights and moments, bit for bit. Every process must call it."""
    if distributed.get_world_size() == 1:
        return
    for name, digest in fingerprints(state).items():
        digests = distributed.gather_across(torch.frombuffer(bytearray(digest), dtype=torch.uint8)[None])
        different = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]
        if different:
            raise UserError(
                f"the replicas have drifted apart: {name} of process {different[0]} differs from that of process 0; "
                "resume from the last checkpoint, and suspect the hardware if it happens again"
            )


def restore_best(
    run: Run, history: RunHistory, checkpoints: Checkpoints, best_path: Path, say: Callable[[str], None]
) -> None:
    """Makes the best pickle that of the resumed checkpoint: the file may come from a state that was lost since."""
    if best_path.is_file() and assets.sha256(best_path) == history.best_digest:
        return
    step = history.best_step
    reason = None if step is None else _absence(checkpoints.path(step))
    if reason is not None:
        say(f"{reason}, and with it the best pickle of {history.best_kimg:g} kimg; the original is the best so far.")
        history.best, history.best_kimg, step = history.before, 0.0, None
        history.lowest, history.lowest_left_out = None, ()
    if step is None:
        run.gan.load().write_original(best_path)
    else:
        path = checkpoints.path(step)
        generator = copy.deepcopy(run.generator)
        load_tensors(generator, parse(path.read_bytes(), path.name)["state"]["average"])
        generator.export(best_path)
    history.best_step, history.best_digest = step, assets.sha256(best_path)


def _absence(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is gone"
    reason = damage(path)
    return None if reason is None else f"{path.name} {reason}"


def check_header(content: dict, run: Run, name: str) -> None:
    """Raises MismatchError unless the checkpoint is of this format and the run started from these very files."""
    header = run.header
    if content.get("format") != header["format"]:
        raise MismatchError(f"{name} is of format {content.get('format')}; this version reads {header['format']}")
    for kind in ("gan", "teacher"):
        if content["sha256"][kind] != header["sha256"][kind]:
            raise MismatchError(f"the file of --{kind} is not the one that {name} started from; restore it")
