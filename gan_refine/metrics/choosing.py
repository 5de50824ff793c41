"""Detectors and metrics by the names that users give."""

from collections.abc import Callable

from gan_refine import assets
from gan_refine.config import build_options, choose, parse_spec
from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics.detectors import Detector, Device, load_detector
from gan_refine.metrics.distance import Figure
from gan_refine.metrics.frechet import Frechet
from gan_refine.metrics.inception import InceptionOptions, open_inception
from gan_refine.metrics.inception_score import InceptionScore
from gan_refine.metrics.kernel import Kernel
from gan_refine.metrics.neighbours import DensityCoverage, PrecisionRecall
from gan_refine.metrics.second_opinions import EFFICIENTNET, ModuleOptions, open_efficientnet, open_torchscript

Opener = Callable[[dict[str, str], Device], Detector]

METRICS: dict[str, type[Figure]] = {
    "fd": Frechet,
    "kd": Kernel,
    "is": InceptionScore,
    "pr": PrecisionRecall,
    "dc": DensityCoverage,
}
EMBEDDED = ("fashion16", "fashion32")  # pairs of the catalog whose detectors come with a reference
ALIASES = {"fid": "fd", "kid": "kd"}  # as asked for; the results are named after what they are


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
    """The detector of a spec: an embedded one (`fashion16`), `inception`, `efficientnet-lite0` or `torchscript,path=FILE`."""
    name, options = parse_spec(text)
    if name in EMBEDDED:
        if options:
            raise OptionError(f"detector {name} has no options, got {', '.join(options)}")
        return load_detector(assets.resolve("detector", name), device=device)
    if name not in DETECTORS:
        raise OptionError(f"unknown detector {name!r}; choose one of {', '.join(sorted([*EMBEDDED, *DETECTORS]))}")
    return DETECTORS[name](options, device)


def fitting_detector(text: str, spec: ImageSpec, device: Device = "cpu") -> Detector:
    """The same for images of that kind; `auto` takes the embedded detector that fits. Raises UserError if none does."""
    if text == "auto":
        for name in EMBEDDED:
            detector = open_detector(name, device)
            if detector.accepts(spec):
                return detector
        raise OptionError(f"there is no embedded detector for {spec} images; give --metrics=none or another detector")
    detector = open_detector(text, device)
    if not detector.accepts(spec):
        raise MismatchError(f"detector {detector.name} is for {detector.spec} images but the GAN makes {spec}")
    return detector


def parse_metrics(text: str) -> list[Figure]:
    """`fd,kd,subsets=50,pr` -> figures; an option belongs to the metric before it. Raises OptionError."""
    specs: list[str] = []
    for part in text.split(","):
        if "=" in part and specs:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    figures: list[Figure] = []
    for spec in specs:
        name, options = parse_spec(spec)
        cls = choose("metric", name, METRICS | {alias: METRICS[kind] for alias, kind in ALIASES.items()})
        figures.append(build_options(cls, options, f"metric {name}"))
    kinds = [figure.kind for figure in figures]
    if len(set(kinds)) < len(kinds):
        raise OptionError(f"--metrics={text} names a metric twice; give each once")
    return figures
