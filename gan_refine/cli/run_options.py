"""The options of a run, as options.json holds them."""

from dataclasses import dataclass
from pathlib import Path

from gan_refine.config import RefineOptions, parse_spec, require


@dataclass(frozen=True)
class RunOptions:
    """Everything that a run depends on; written to options.json."""

    gan: str
    which: str
    teacher: str
    outdir: str
    desc: str | None
    objective: str
    metrics: str
    detector: str
    fid_ref: str
    fid_seeds: int
    eval_images: int
    teacher_steps: int
    snap: int
    device: str
    trust_pickle: bool
    refine: RefineOptions

    def __post_init__(self) -> None:
        require("eval_images", self.eval_images, self.eval_images >= 2, "at least 2")
        require(
            "teacher_steps", self.teacher_steps, self.teacher_steps == 0 or self.teacher_steps >= 2, "0 or at least 2"
        )
        require("fid_seeds", self.fid_seeds, self.fid_seeds >= 0, "at least 0")
        require("snap", self.snap, self.snap > 0, "a positive number of ticks")


def description(options: RunOptions) -> str:
    """The run folder's name: the GAN's, the objective's, the batch."""
    name, _ = parse_spec(options.objective)
    return f"{Path(options.gan).stem}-{name}-batch{options.refine.batch}"
