"""gan_refine: refine a pretrained GAN with a pretrained diffusion model and no data set (Diff-Instruct, arXiv:2305.18455).

The embedded pair `fashion16`, refined by Diff-Instruct; the refined pickle opens wherever the original did:

    from pathlib import Path
    import gan_refine

    generator = gan_refine.load_generator("fashion16")
    teacher = gan_refine.load_teacher("fashion16")
    objective = gan_refine.build_objective("diff-instruct", teacher)
    options = gan_refine.RefineOptions(total_images=24_576, glr=1e-4)
    for progress in gan_refine.refine(generator, objective, options):
        print(progress.images, progress.health.remaining_nats())
    progress.average.export(Path("refined.pkl"))
    print(gan_refine.evaluate(progress.average, images=10_000))

Importing this package imports neither torch nor any part of it: names are looked up when they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gan_refine.version import VERSION as __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gan_refine.config import RefineOptions
    from gan_refine.evaluation import evaluate
    from gan_refine.interfaces import Denoiser, Generator, PixelBytes
    from gan_refine.objectives import (
        DiffInstruct,
        DiffInstructDmd,
        DiGan,
        Sds,
        Sid,
        Sim,
        build_objective,
    )
    from gan_refine.refine import refine


__all__ = [
    "DiGan",
    "DiffInstruct",
    "DiffInstructDmd",
    "RefineOptions",
    "Sds",
    "Sid",
    "Sim",
    "__version__",
    "build_objective",
    "evaluate",
    "load_generator",
    "load_teacher",
    "refine",
    "sample",
]

_HOMES = {"RefineOptions": "gan_refine.config", "evaluate": "gan_refine.evaluation"}  # the rest: gan_refine.objectives


def load_generator(source: str | Path, which: str = "G_ema") -> "Generator":
    """The generator `which` of a StyleGAN2 pickle or state dict, or a one-step generator, on the CPU and ready to be refined.

    `source` is what --gan takes: a path, an http(s) URL, an embedded or public name, or `one-step:TEACHER,sigma=2.5`.
    Nothing in the file is run. Raises UserError.
    """
    from gan_refine.run.networks import open_gan

    return open_gan(str(source), which).generator


def load_teacher(source: str | Path) -> "Denoiser":
    """The frozen denoiser of an EDM pickle or state dict, on the CPU; `source` is what --teacher takes: a path, URL or name.

    Nothing in the file is run. Raises UserError.
    """
    from gan_refine.run.networks import open_teacher

    return open_teacher(str(source), trust=False, device="cpu").denoiser


def sample(generator: "Generator", seeds: "Iterable[int]", label: int | None = None) -> "PixelBytes":
    """uint8 images [N, C, R, R] of these seeds, as `gan-refine generate` makes them; a conditional generator needs a `label`.

    Raises OptionError for a seed that numpy does not take.
    """
    import torch

    from gan_refine.config import SEED, require
    from gan_refine.run.generate import Picture, images

    seeds = list(seeds)
    for seed in seeds:
        require("seed", seed, SEED.holds(seed), str(SEED))
    return torch.stack(list(images(generator, [Picture(seed, label, "") for seed in seeds])))


def __getattr__(name: str) -> object:
    """A public name from its module. `refine` is the package gan_refine.refine, which is called like the function in it."""
    if name == "refine":
        return import_module("gan_refine.refine")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "gan_refine.objectives")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
