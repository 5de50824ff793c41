"""The tables DETECTORS and METRICS, and what --detector and --metrics say."""

from collections.abc import Callable

from gan_refine import assets
from gan_refine.config import build_options, choose, parse_spec
from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics.detectors import Detector, Device, load_detector
from gan_refine.metrics.extra_detectors import EFFICIENTNET, ModuleOptions, open_efficientnet, open_torchscript
from gan_refine.metrics.frechet import FrechetDistance
from gan_refine.metrics.inception import InceptionOptions, open_inception
from gan_refine.metrics.inception_score import InceptionScore
from gan_refine.metrics.kernel import KernelDistance
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.precision_recall import DensityCoverage, PrecisionRecall

Opener = Callable[[dict[str, str], Device], Detector]

METRICS: dict[str, type[Metric]] = {
    "fd": FrechetDistance,
    "kd": KernelDistance,
    "is": InceptionScore,
    "pr": PrecisionRecall,
    "dc": DensityCoverage,
}
# Entries of the catalog whose detectors come with a reference; `auto` is the first that fits. Results are reported in the features
# of fashion16-b too, but nothing is chosen by it.
EMBEDDED_DETECTORS = ("fashion16", "fashion16-b")
ALIASES = {"fid": "fd", "kid": "kd"}  # for --metrics; a result is called fid or kid only where it is (`metric_name`)


def _inception(options: dict[str, str], device: Device) -> Detector:
    return open_inception(build_options(InceptionOptions, options, "detector inception"), device)


def _torchscript(options: dict[str, str], device: Device) -> Detector:
    return open_torchscript(build_options(ModuleOptions, options, "detector torchscript"), device)


def _efficientnet(options: dict[str, str], device: Device) -> Detector:
    if options:
        raise OptionError(f"detector {EFFICIENTNET} has no options, got {', '.join(options)}")
    return open_efficientnet(device)


DETECTORS: dict[str, Opener] = {
    "inception": _inception,
    EFFICIENTNET: _efficientnet,
    "torchscript": _torchscript,
}


def open_detector(text: str, device: Device = "cpu") -> Detector:
    """The detector that --detector names: `fashion16`, `fashion16-b`, `inception`, `efficientnet-lite0` or `torchscript,path=FILE`.

    Raises UserError if there is no such detector or its file cannot be read.
    """
    name, options = parse_spec(text)
    if name in EMBEDDED_DETECTORS:
        if options:
            raise OptionError(f"detector {name} has no options, got {', '.join(options)}")
        return load_detector(assets.resolve("detector", name), device=device)
    if name not in DETECTORS:
        raise OptionError(
            f"unknown detector {name!r}; choose one of {', '.join(sorted([*EMBEDDED_DETECTORS, *DETECTORS]))}"
        )
    return DETECTORS[name](options, device)


def choose_detector(text: str, spec: ImageSpec, device: Device = "cpu") -> Detector:
    """The detector that --detector names, for images of `spec`; `auto` is the embedded detector for such images.

    Raises OptionError if `auto` finds none, and MismatchError if the named detector does not take such images.
    """
    if text == "auto":
        for name in EMBEDDED_DETECTORS:
            detector = open_detector(name, device)
            if detector.accepts(spec):
                return detector
        raise OptionError(
            f"there is no embedded detector for {spec} images; choose another --detector, or --metrics=none"
        )
    detector = open_detector(text, device)
    if not detector.accepts(spec):
        raise MismatchError(f"detector {detector.name} is for {detector.spec} images but the GAN makes {spec}")
    return detector


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
        cls = choose("metric", name, METRICS | {alias: METRICS[kind] for alias, kind in ALIASES.items()})
        metrics.append(build_options(cls, options, f"metric {name}"))
    kinds = [metric.kind for metric in metrics]
    if len(set(kinds)) < len(kinds):
        raise OptionError(f"--metrics={text} names a metric twice; give each once")
    return metrics
