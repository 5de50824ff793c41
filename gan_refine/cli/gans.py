"""--gan: a generator's file or name, or `one-step:TEACHER,sigma=2.5`, a generator that is made of a teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gan_refine import assets
from gan_refine.cli.trusting import family
from gan_refine.config import build_options, parse_spec
from gan_refine.errors import OptionError
from gan_refine.generators import GENERATORS, ORIGINALS, AnyFamily, OneStepOptions, distil, is_one_step

ONE_STEP = "one-step"


@dataclass(frozen=True)
class Gan:
    """What --gan names: `load` makes the generator anew, `write_original` writes its file as it was, `family` reads that file."""

    path: Path
    family: str
    load: Callable[[], AnyFamily]
    write_original: Callable[[Path], None]


def find_gan(text: str, which: str = "G_ema", trust: bool = False) -> Gan:
    """The generator of a --gan option; nothing is built yet. Raises UserError."""
    if text.partition(":")[0] == ONE_STEP:
        return _of_teacher(text)
    path = assets.resolve("gan", text)
    name = family("stylegan2", text, path, trust)
    if name == "stylegan2" and is_one_step(path):
        name = ONE_STEP
    return Gan(path, name, lambda: GENERATORS[name](path, which), lambda out: ORIGINALS[name](path, out, which))


def _of_teacher(text: str) -> Gan:
    given, options = parse_spec(text.partition(":")[2])
    if not given:
        raise OptionError(f"--gan={text} names no teacher; write one-step:FILE,sigma=2.5")
    path = assets.resolve("teacher", given)
    chosen = build_options(OneStepOptions, options, "--gan=one-step")
    return Gan(path, ONE_STEP, lambda: distil(path, chosen), lambda out: distil(path, chosen).export(out))
