"""`python -m gan_refine generate`: images of a generator, one PNG per seed."""

import sys
from pathlib import Path

import click
from click.core import ParameterSource
from tqdm import tqdm

from gan_refine.cli.options import (
    GAN,
    PATH,
    SETTINGS,
    GroupedCommand,
    check_device,
    device_option,
    noise_mode_option,
    option,
    trust_pickle_option,
)
from gan_refine.cli.process import share_cores
from gan_refine.config import DEFAULT_STEPS, SEED, UNIFORM, require
from gan_refine.errors import OptionError, UserError
from gan_refine.files import require_writable

OF_GANS, OF_TEACHERS = ("which", "noise_mode", "trunc"), ("teacher_steps",)
NETWORKS, IMAGES, OUTPUT = "Networks", "Images", "Output"


# fmt: off
@click.command("generate", cls=GroupedCommand, context_settings=SETTINGS)
@option(NETWORKS, "--gan", metavar="PKL|URL|NAME", type=PATH, default=None, help=GAN)
@option(NETWORKS, "--teacher", metavar="PKL|URL|NAME", type=PATH, default=None,
        help="Instead of --gan: show samples of this teacher.")
@option(NETWORKS, "--teacher-steps", metavar="INT", type=int, default=DEFAULT_STEPS,
        help="Sampler steps, each a call of the teacher; at least 2.")
@option(NETWORKS, "--which", type=click.Choice(["G_ema", "G"]), default="G_ema", help="Network of the GAN's file.")
@noise_mode_option(NETWORKS, default="const")
@trust_pickle_option(NETWORKS)
@option(IMAGES, "--seeds", metavar="SEEDS", default="0-35",
        help="Numbers and ranges, such as 0-35 or 1,2,5-9, with the latents of StyleGAN's tools.")
@option(IMAGES, "--trunc", metavar="FLOAT", type=float, default=1.0,
        help="Truncation psi: 1 for full diversity, 0 for the mean image.")
@option(IMAGES, "--class", "classes", metavar="CLASSES", default=None,
        help="Class of a conditional generator, or several such as 0-9.")
@option(OUTPUT, "--outdir", metavar="DIR", type=PATH, required=True, help="Where to write seedNNNN.png.")
@option(OUTPUT, "--grid", is_flag=True,
        help="Also write grid.png with all images, one row per seed if there are several classes.")
@device_option(OUTPUT)
@click.pass_context
def generate(
    context: click.Context,
    gan: str | None,
    teacher: str | None,
    teacher_steps: int,
    which: str,
    seeds: str,
    trunc: float,
    classes: str | None,
    noise_mode: str,
    outdir: str,
    grid: bool,
    device: str,
    trust_pickle: bool,
) -> None:
    """Write images of a generator as PNG files. Prints their names; a seed gives the latents that StyleGAN's tools give it."""
    import torch

    from gan_refine.generators import PretrainedGenerator
    from gan_refine.run.folder import picture_notice, save_png, tile
    from gan_refine.run.generate import MAX_IMAGES, Picture, choose_labels, images, open_source, parse_numbers

    share_cores()
    require("trunc", trunc, -10 <= trunc <= 10, "between -10 and 10")
    check_device(device)
    numbers = parse_numbers("seeds", seeds, int(SEED.high))
    require_writable("--outdir", Path(outdir))
    refuse_unused(context, gan, teacher)
    generator = open_source(gan, teacher, which, teacher_steps, trust_pickle, device)
    pretrained = generator if isinstance(generator, PretrainedGenerator) else None
    if pretrained is not None and context.get_parameter_source("noise_mode") is ParameterSource.COMMANDLINE:
        pretrained.set_latent_options(UNIFORM, noise_mode)
    constant = noise_mode == "const"
    random_noise = pretrained is not None and pretrained.draws_noise and not (constant and pretrained.has_noise_inputs)
    labels = choose_labels(generator.spec, classes)
    notice = picture_notice(generator.spec.channels)
    if notice is not None:
        print(notice, file=sys.stderr)
    if trunc != 1 and pretrained is not None:
        generator = pretrained.truncated(trunc)
    pictures = [
        Picture(seed, label, f"seed{seed:04d}" + (f"-class{label:02d}" if len(labels) > 1 else "") + ".png")
        for seed in numbers
        for label in labels
    ]
    require("seeds", len(pictures), len(pictures) <= MAX_IMAGES, f"at most {MAX_IMAGES} images")
    folder, made = Path(outdir), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(pictures), unit="img", file=sys.stderr, disable=None, leave=False) as bar:
            for picture, image in zip(pictures, images(generator, pictures, random_noise), strict=True):
                save_png(folder / picture.name, tile(image[None]))
                print(folder / picture.name, flush=True)
                made += [image] if grid else []
                bar.update()
        if grid:
            save_png(folder / "grid.png", tile(torch.stack(made), len(labels) if len(labels) > 1 else None))
            print(folder / "grid.png", flush=True)
    except OSError as error:
        raise UserError(
            f"cannot write to --outdir={outdir} ({error.strerror}); choose a folder that you may write to"
        ) from error
# fmt: on


def refuse_unused(context: click.Context, gan: str | None, teacher: str | None) -> None:
    """Raises OptionError unless one network is given, without an option that belongs to the other kind."""
    if (gan is None) == (teacher is None):
        raise OptionError("generate shows one network; give --gan or --teacher")
    shown, unused = ("--gan", OF_TEACHERS) if teacher is None else ("--teacher", OF_GANS)
    for name in unused:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise OptionError(f"--{name.replace('_', '-')} does nothing with {shown}; leave it out")
