"""The tables DETECTORS and METRICS, and what --detector and --metrics say."""

import re
from collections.abc import Callable, Sequence

from gan_refine import assets
from gan_refine.config import build_options, choose, parse_path_spec, parse_spec, shortened
from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import Denoiser, ImageSpec
from gan_refine.metrics.detectors import Detector, Device, load_detector
from gan_refine.metrics.extra_detectors import (
    EFFICIENTNET,
    EfficientNetOptions,
    ModuleOptions,
    open_efficientnet_detector,
    open_torchscript,
)
from gan_refine.metrics.frechet import FrechetDistance
from gan_refine.metrics.free_detectors import PixelsDetector, TeacherDetector, has_layers
from gan_refine.metrics.inception import InceptionOptions, open_inception
from gan_refine.metrics.inception_score import InceptionScore
from gan_refine.metrics.kernel import KernelDistance
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.precision_recall import DensityCoverage, Neighbors, PrecisionRecall

Opener = Callable[[dict[str, str], Device], Detector]

METRICS: dict[str, type[Metric]] = {
    "fd": FrechetDistance,
    "kd": KernelDistance,
    "is": InceptionScore,
    "pr": PrecisionRecall,
    "dc": DensityCoverage,
    "nn": Neighbors,
}
EMBEDDED_DETECTORS = ("fashion16", "fashion16-b")  # entries of the catalog whose detectors come with a reference
ONLY_REPORT = ("fashion16-b", EFFICIENTNET)  # starts of the names of detectors by which nothing may be chosen
CHOSE_DEFAULTS = ("fashion16",)  # names of the detectors by which the default settings were chosen
AUTO, TEACHER, PIXELS = "auto", "teacher", "pixels"
ALIASES = {"fid": "fd", "kid": "kd"}  # for --metrics; a result is called fid or kid only where it is (`metric_name`)
STYLEGAN_METRIC = re.compile(r"(fid|kid|pr|is)(\d+)k3?(?:_full)?")  # fid50k_full, pr50k3: what users of its tools type


def _inception(options: dict[str, str], device: Device) -> Detector:
    return open_inception(build_options(InceptionOptions, options, "--detector=inception"), device)


def _torchscript(options: dict[str, str], device: Device) -> Detector:
    return open_torchscript(build_options(ModuleOptions, options, "--detector=torchscript"), device)


def _efficientnet(options: dict[str, str], device: Device) -> Detector:
    return open_efficientnet_detector(build_options(EfficientNetOptions, options, f"--detector={EFFICIENTNET}"), device)


DETECTORS: dict[str, Opener] = {
    "inception": _inception,
    EFFICIENTNET: _efficientnet,
    "torchscript": _torchscript,
}


def open_detector(text: str, device: Device = "cpu") -> Detector:
    """The detector of a file: embedded, `inception`, `efficientnet-lite0` or `torchscript,path=FILE`.

    Raises UserError if there is no such detector or its file cannot be read.
    """
    name, options = parse_path_spec(text)
    if name in EMBEDDED_DETECTORS:
        if options:
            raise OptionError(f"detector {name} has no options, got {', '.join(options)}")
        return load_detector(assets.resolve("detector", name), device=device)
    if name not in DETECTORS:
        known = ", ".join(sorted([*EMBEDDED_DETECTORS, *DETECTORS, TEACHER, PIXELS]))
        raise OptionError(f"unknown detector {shortened(name)!r}; choose one of {known}")
    return DETECTORS[name](options, device)


def choose_detectors(texts: Sequence[str], spec: ImageSpec, teacher: Denoiser | None, device: Device) -> list[Detector]:
    """The detectors that --detector names, for images of `spec`; the first ranks a run's snapshots.

    `auto` is all that fit, need no download and may choose settings: an embedded one, `teacher` and `pixels`. Raises OptionError
    for one that is named twice, and MismatchError for one that does not take such images.
    """
    found: list[Detector] = []
    for text in texts:
        found += _automatic(spec, teacher, device) if text == AUTO else [_named(text, spec, teacher, device)]
    names = [detector.name for detector in found]
    if len(set(names)) < len(names):
        raise OptionError(f"--detector names a detector twice: {', '.join(names)}; give each once")
    return found


def _automatic(spec: ImageSpec, teacher: Denoiser | None, device: Device) -> list[Detector]:
    embedded = [open_detector(name, device) for name in EMBEDDED_DETECTORS if not only_reports(name)]
    found = [detector for detector in embedded if detector.accepts(spec)]
    if teacher is not None and has_layers(teacher):
        found.append(TeacherDetector(teacher))
    return [*found, PixelsDetector(spec, device)]


def _named(text: str, spec: ImageSpec, teacher: Denoiser | None, device: Device) -> Detector:
    if text == TEACHER:
        if teacher is None:
            raise OptionError("--detector=teacher needs a teacher; give --teacher=FILE")
        detector: Detector = TeacherDetector(teacher)
    else:
        detector = PixelsDetector(spec, device) if text == PIXELS else open_detector(text, device)
    if not detector.accepts(spec):
        raise MismatchError(f"detector {detector.name} is for {detector.spec} images but the GAN makes {spec}")
    return detector


def role(name: str) -> str:
    """What has been, may be and may not be chosen by the detector of that name, to be printed beside its figures."""
    if name in CHOSE_DEFAULTS:
        return "chose the default settings"
    return "only reports" if only_reports(name) else "may choose settings"


def only_reports(name: str) -> bool:
    """Whether no setting and no snapshot may be chosen by the detector of that name: it stays an independent judge."""
    return name.startswith(ONLY_REPORT)


def parse_metrics(text: str) -> list[Metric]:
    """The metrics of a list such as `fd,kd,subsets=50,pr`; an option belongs to the metric before it.

    Raises OptionError for an unknown name or option, and for a metric that is named twice.
    """
    specs: list[str] = []
    for part in text.split(","):
        if "=" in part and specs:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    metrics: list[Metric] = []
    for spec in specs:
        name, options = parse_spec(spec)
        if theirs := STYLEGAN_METRIC.fullmatch(name):
            raise OptionError(
                f"--metrics={name} is a name of StyleGAN's tools; write --metrics={theirs[1]} with {theirs[2]}000 images "
                "(--images of evaluate, --eval-images of refine)"
            )
        cls = choose("metric", name, METRICS | {alias: METRICS[kind] for alias, kind in ALIASES.items()})
        metrics.append(build_options(cls, options, f"--metrics={name}"))
    kinds = [metric.kind for metric in metrics]
    if len(set(kinds)) < len(kinds):
        raise OptionError(f"--metrics={shortened(text)} names a metric twice; give each once")
    return metrics
