"""From the options of a run to its four objects: generator, teacher, objective, metric."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn
from tqdm import tqdm

from gan_refine import assets
from gan_refine.cli.drawing_options import set_drawing
from gan_refine.cli.gans import Gan, find_gan
from gan_refine.cli.run_options import RunOptions
from gan_refine.cli.trusting import family
from gan_refine.config import build_options, choose, parse_spec
from gan_refine.errors import MismatchError, OptionError
from gan_refine.generators import AnyFamily, Bridged, BridgeOptions, bridge, can_bridge
from gan_refine.interfaces import Denoiser, Generator, ImageSpec, Objective
from gan_refine.labels import UNIFORM, Frequencies, parse_frequencies
from gan_refine.metrics import Panel, Result
from gan_refine.objectives import Best, build_objective
from gan_refine.refine import learning_groups
from gan_refine.report import RecallMeter, TeacherFile, measure, open_panel, open_recall
from gan_refine.report.panel import check_ranks
from gan_refine.teachers import TEACHERS, recompute_activations

CHECKPOINT_FORMAT = 1


class Header(TypedDict):
    """The head of a checkpoint."""

    format: int
    sha256: dict[str, str]
    torch: str


@dataclass
class Run:
    """The four objects of a run, wired, and where it writes."""

    options: RunOptions
    gan: Gan
    teacher_path: Path
    generator: Generator
    teacher: Denoiser
    objective: Objective
    metric: Panel | None
    recall: RecallMeter | None
    full_size: bool  # whether the metric looks at full-size images of a bridged generator; False without a bridge
    frequencies: Frequencies | None  # of classes, None for all alike
    header: Header

    def open_generator(self, load: Callable[[], AnyFamily]) -> Generator:
        """A generator of this run's kind on its device, whose latents are drawn as this run draws them."""
        return open_generator(load, self.options)

    @property
    def bridged(self) -> bool:
        return isinstance(self.generator, Bridged)

    @property
    def frozen(self) -> list[nn.Module]:
        """Networks that come from files and never change, so that no checkpoint need hold them."""
        eyes = self.objective.features if isinstance(self.objective, Best) else None
        return [module for module in (self.teacher, eyes) if isinstance(module, nn.Module)]

    @property
    def looks_at(self) -> ImageSpec:
        """The images that the metric is shown."""
        return whole(self.generator).spec if self.full_size else self.generator.spec

    def measure(self, generator: Generator, seed: int | None = None) -> list[Result]:
        """All figures, with the latents of the run's seed by default; none without a metric."""
        if self.metric is None:
            return []
        shown = whole(generator) if self.full_size else self._as_taught(generator)
        return measure(shown, self.metric, self.options.refine.seed if seed is None else seed)

    def measure_recall(self, generator: Generator) -> list[Result]:
        """How much of the teacher's samples the generator covers; nothing without --recall."""
        if self.recall is None:
            return []
        return measure(self._as_taught(generator), self.recall.panel, self.options.refine.seed)

    def _as_taught(self, generator: Generator) -> Generator:
        """The generator with images of the teacher's size."""
        return self.generator.around(whole(generator)) if isinstance(self.generator, Bridged) else generator


def wire(options: RunOptions, dry_run: bool = False) -> Run:
    """Reads both networks and builds objective and metric. Raises UserError; writes nothing, except
    that a reference of teacher samples goes to the cache; a dry run leaves that out."""
    gan = find_gan(options.gan, options.which, options.trust_pickle)
    teacher_path = assets.resolve("teacher", options.teacher)
    generator: Generator = open_generator(gan.load, options)
    teacher_family = family("edm", options.teacher, teacher_path, options.trust_pickle)
    teacher = TEACHERS[teacher_family](teacher_path).to(torch.device(options.device))
    frequencies = parse_frequencies(options.labels, generator.spec)
    bridging = bridge_options(options.bridge)
    if bridging is not None:
        generator = bridge(generator, teacher.spec, bridging)
    check_match(generator.spec, teacher.spec)
    learning_groups(generator, options.refine.train)  # known before anything is written
    objective = build_objective(chosen_objective(options), teacher, generator.critic, frequencies)
    if options.recompute and recompute_activations(objective) == 0:  # type: ignore[arg-type]
        raise OptionError("--recompute knows EDM's U-Nets and this teacher has none; leave it out")
    teacher_file = TeacherFile(teacher_path, teacher, frequencies)
    recall = None if dry_run else make_recall(options, generator.spec, teacher_file)
    metric, full_size = None, False
    if not (dry_run and options.fid_ref.startswith("teacher")):
        metric, full_size = choose_metric(options, generator, bridging, teacher_file)
    digests = {"gan": assets.sha256(gan.path), "teacher": assets.sha256(teacher_path)}
    header: Header = {"format": CHECKPOINT_FORMAT, "sha256": digests, "torch": str(torch.__version__)}
    return Run(
        options, gan, teacher_path, generator, teacher, objective, metric, recall, full_size, frequencies, header
    )


def open_generator(load: Callable[[], AnyFamily], options: RunOptions) -> AnyFamily:
    """What `load` gives, on the device, drawing its latents as the options say. Raises OptionError."""
    return set_drawing(load(), options.labels, options.noise_mode).to(torch.device(options.device))


def chosen_objective(options: RunOptions) -> str:
    """--objective, where auto is `best`, or without the pools that it is made for Diff-Instruct as its authors released it."""
    if options.objective != "auto":
        return options.objective
    return "best" if options.refine.pool_images else "diff-instruct"


def check_match(gan: ImageSpec, teacher: ImageSpec) -> None:
    """Raises MismatchError unless the teacher can judge the generator's images."""
    if (gan.resolution, gan.channels) != (teacher.resolution, teacher.channels):
        way_out = ", or refine what it sees with --bridge=resize" if can_bridge(gan, teacher) else ""
        raise MismatchError(
            f"the GAN makes {gan} images but the teacher denoises {teacher}; choose a teacher of the GAN's size{way_out}"
        )
    if teacher.num_classes and not gan.num_classes:
        raise MismatchError(
            f"the teacher denoises images of {teacher.num_classes} classes and must be told which, but the GAN makes {gan} "
            "images without classes; choose an unconditional teacher"
        )
    if teacher.num_classes not in (0, gan.num_classes):
        raise MismatchError(
            f"the GAN makes {gan} but the teacher knows {teacher.num_classes} classes; choose a teacher of the same classes, "
            "or an unconditional one"
        )


def what_is_matched(gan: ImageSpec, teacher: ImageSpec, labels: str) -> str | None:
    """What a teacher without classes makes of a GAN that has some; None for pairs where nothing is to be said."""
    if teacher.num_classes or not gan.num_classes:
        return None
    drawn = "drawn uniformly" if labels == UNIFORM else "drawn with the frequencies of --labels"
    return (
        f"The teacher knows no classes: what is matched is the mixture of the GAN's {gan.num_classes} classes, {drawn}; "
        "the teacher holds no image to its class."
    )


def what_is_unseen(objective: Objective) -> str | None:
    """That `best` has to do without a discriminator; None where nothing is to be said."""
    if not isinstance(objective, Best) or objective.features is not None or not objective.weight:
        return None
    return "The GAN's file has no discriminator of the teacher's size: pools are learnt in pixels alone, not in its features."


def bridge_options(text: str) -> BridgeOptions | None:
    """What --bridge asks for; None for 'none'. Raises OptionError."""
    name, options = parse_spec(text)
    if name == "none" and not options:
        return None
    return build_options(choose("bridge", name, {"resize": BridgeOptions}), options, "--bridge=resize")


def whole(generator: Generator) -> Generator:
    """The generator itself, without the bridge to its teacher."""
    return generator.generator if isinstance(generator, Bridged) else generator


def choose_metric(
    options: RunOptions, generator: Generator, bridging: BridgeOptions | None, teacher: TeacherFile
) -> tuple[Panel | None, bool]:
    """The metric, and whether it looks at the full-size images of a bridge: by default where a detector and a reference fit."""
    if bridging is None or bridging.measure == "teacher":
        return make_metric(options, generator.spec, teacher), False
    try:
        return make_metric(options, whole(generator).spec, None), True
    except (MismatchError, OptionError):
        if bridging.measure == "full":
            raise
        return make_metric(options, generator.spec, teacher), False


def make_metric(options: RunOptions, spec: ImageSpec, teacher: TeacherFile | None) -> Panel | None:
    """The metrics named by --metrics, or None for 'none'."""
    if options.metrics == "none":
        return None
    with _sampling() as bar:
        chosen = options.metrics, options.detector, options.fid_ref
        panel = open_panel(*chosen, spec, options.eval_images, teacher, options.device, bar.update)
    check_ranks(panel)
    return panel


def make_recall(options: RunOptions, spec: ImageSpec, teacher: TeacherFile) -> RecallMeter | None:
    """What --recall asks for, in the detector of the metrics."""
    if options.recall == 0:
        return None
    with _sampling() as bar:
        chosen = options.metrics, options.detector
        return open_recall(options.recall, *chosen, spec, teacher, options.device, bar.update)


def _sampling() -> tqdm:
    return tqdm(unit="img", file=sys.stderr, desc="sampling the teacher", disable=None, leave=False)
