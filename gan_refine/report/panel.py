"""From the texts of --metrics, --detector and --fid-ref to metrics that are ready to look at images."""

from collections.abc import Callable

from gan_refine.errors import OptionError
from gan_refine.interfaces import Generator, ImageSpec
from gan_refine.metrics import Detector, Panel, Result, fitting_detector, parse_metrics
from gan_refine.report.evaluation import show_generator
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
    metrics, detector = _spelt_out(metrics, detector)
    figures = parse_metrics(metrics)
    found: Detector = fitting_detector(detector, spec, device)
    reference = None
    if fid_ref != "auto" or any(figure.kind != "is" for figure in figures):
        reference = open_reference(fid_ref, found, teacher, tick)
    return Panel(found, reference, num_images, figures)


def _spelt_out(metrics: str, detector: str) -> tuple[str, str]:
    head, _, rest = metrics.partition("-")
    if head in ("fd", "fid") and rest:
        if detector != "auto":
            raise OptionError(f"--metrics={metrics} names a detector, and --detector={detector} another; give one")
        return head, rest
    wants_inception = any(name in ("fid", "kid") for name in metrics.split(","))
    return ("fd" if metrics == "auto" else metrics), (
        "inception" if wants_inception and detector == "auto" else detector
    )


def check_ranks(panel: Panel) -> None:
    """Raises OptionError unless the first figure, by which a run keeps its best, is a distance: lower is better."""
    if panel.figures[0].kind not in ("fd", "kd"):
        raise OptionError(
            f"--metrics starts with {panel.figures[0].kind}; a run ranks by the first, so give fd or kd first"
        )


def measure(generator: Generator, panel: Panel, seed: int) -> list[Result]:
    """All figures of the panel on the generator's images; the same latents for every generator of one latent size."""
    fresh = panel.fresh()
    show_generator(generator, fresh, fresh.num_images, seed)
    return fresh.results()
