"""From the texts of --metrics, --detector and --fid-ref to metrics that are ready to look at images."""

from collections.abc import Callable

from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import Generator, ImageSpec
from gan_refine.metrics import INCEPTION, Panel, Result, fitting_detector, parse_metrics
from gan_refine.report.evaluation import show_generator, teacher_images
from gan_refine.report.reference import TeacherFile, open_reference


def open_panel(
    metrics: str,
    detector: str,
    fid_ref: str,
    spec: ImageSpec,
    num_images: int,
    teacher: TeacherFile | None = None,
    device: str = "cpu",
    tick: Callable[[int], object] = lambda n: None,
) -> Panel:
    """The metrics of a list such as `fd,kd,pr` for images of that kind.

    `auto` and `fd-NAME` are `fd` with the detector that fits or is named; `fid` and `kid` mean Inception's unless a
    detector is given. Raises UserError.
    """
    if teacher is not None:
        theirs = teacher.denoiser.spec
        if (theirs.channels, theirs.resolution) != (spec.channels, spec.resolution):
            raise MismatchError(
                f"the GAN makes {spec} images but the teacher {theirs}; choose a teacher of the GAN's size"
            )
    metrics, detector = spell_out(metrics, detector)
    figures = parse_metrics(metrics)
    found = fitting_detector(detector, spec, device)
    reference = None
    if fid_ref != "auto" or any(figure.needs.reference for figure in figures):
        reference = open_reference(fid_ref, found, teacher, tick)
    return Panel(found, reference, num_images, figures)


def spell_out(metrics: str, detector: str) -> tuple[str, str]:
    """--metrics without `auto` and without a detector in it, and --detector as both imply it."""
    if metrics == "auto":
        return "fd", detector
    head, _, rest = metrics.partition("-")
    if head == "fd" and rest:
        if detector != "auto":
            raise OptionError(f"--metrics={metrics} names a detector, and --detector={detector} another; give one")
        return head, rest
    if detector == "auto" and {"fid", "kid"} & set(metrics.split(",")):
        return metrics, INCEPTION
    return metrics, detector


def check_ranks(panel: Panel) -> None:
    """Raises OptionError unless the first figure, by which a run keeps its best, is a distance: lower is better."""
    if panel.figures[0].higher_is_better:
        raise OptionError(
            f"--metrics starts with {panel.figures[0].kind}; a run ranks by the first, so give fd or kd first"
        )


def measure(
    generator: Generator, panel: Panel, seed: int, tick: Callable[[int], object] = lambda n: None
) -> list[Result]:
    """All figures of the panel on the generator's images; the same latents for every generator of one latent size."""
    fresh = panel.fresh()
    show_generator(generator, fresh, fresh.num_images, seed, tick)
    return fresh.results()


def measure_teacher(
    teacher: TeacherFile, panel: Panel, steps: int, seed: int, tick: Callable[[int], object] = lambda n: None
) -> list[Result]:
    """The same on the teacher's own samples, by Heun's sampler."""
    fresh = panel.fresh()
    samples = teacher_images(teacher.denoiser, fresh.num_images, steps, seed, tick, teacher.frequencies)
    for first, images in samples:
        fresh.update(images, first)
    return fresh.results()
