"""How exact Diff-Instruct's gradient g_x = D_g - D_d is in each precision: `python benchmarks/precision.py [--warmup-kimg=6]`.

The score model first learns from the embedded generator's images, as a run's warm-up does. Prints, for each band of sigma, the
size of g_x and |g_x - g_x in float64| / |g_x in float64| over its images. The U-Nets alone are in another precision, as in a run;
tf32 is imitated by rounding both factors of every product to 10 bits, so that the script runs on a CPU.
"""

import copy
import itertools
import sys
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parent.parent))

import gan_refine
from gan_refine.config import RefineOptions
from gan_refine.interfaces import Images, Sigma
from gan_refine.noise import add_noise, rng_for
from gan_refine.refine import RefineState, advance
from gan_refine.refine.health import SIGMA_BANDS
from gan_refine.teachers import EdmTeacher

PRODUCTS = {F.conv2d, F.conv_transpose2d, F.linear, F.scaled_dot_product_attention}


class Tf32(TorchFunctionMode):
    """Inside, the factors of products have 10 bits behind the point, as on tensor cores; sums stay in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            args = [_rounded(a) if number < 2 else a for number, a in enumerate(args)]
        return func(*args, **(kwargs or {}))


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    return ((tensor.contiguous().view(torch.int32) + 2**12) & ~(2**13 - 1)).view(torch.float32)


def denoise(teacher: EdmTeacher, noisy: Images, sigma: Sigma, dtype: torch.dtype) -> torch.Tensor:
    """D with the preconditioning in float32, or all in float64, and the U-Net in `dtype`."""
    outer = torch.float64 if dtype == torch.float64 else torch.float32
    noisy, sigma = noisy.to(outer), sigma.to(outer)
    c_skip, c_out, c_in, c_noise = teacher.net.coefficients(sigma)
    raw = teacher.net.model((c_in * noisy).to(dtype), c_noise.flatten())
    return c_skip * noisy + c_out * raw.to(outer)


@click.command(help=__doc__)
@click.option("--pair", default="fashion16", show_default=True, help="An embedded pair.")
@click.option(
    "--warmup-kimg", type=float, default=6.0, show_default=True, help="Images that the score model learns from."
)
@click.option("--images", type=int, default=64, show_default=True, help="Images of each band.")
@torch.no_grad()
def main(pair: str, warmup_kimg: float, images: int) -> None:
    generator = gan_refine.load_generator(pair)
    objective = gan_refine.build_objective("diff-instruct", gan_refine.load_teacher(pair))
    state = RefineState(generator, objective, RefineOptions(warmup_images=round(1000 * warmup_kimg)))
    with torch.enable_grad():
        for _ in advance(state):
            if state.warm >= state.warmup_images:
                break
    exact = copy.deepcopy(objective).double()
    rng = rng_for(0, 0, 0, 1)
    click.echo(f"{pair}, score model after {warmup_kimg:g} kimg, torch {torch.__version__}")
    click.echo("| sigma | rms of g_x | fp32 | tf32 | bf16 |\n|---|---|---|---|---|")
    for low, high in itertools.pairwise(SIGMA_BANDS):
        clean = generator(generator.draw(images, rng))
        sigma = low * (high / low) ** torch.rand([images, 1, 1, 1], generator=rng)
        noisy = add_noise(clean, sigma, rng).contiguous(memory_format=torch.channels_last)

        def gradient(pair: gan_refine.DiffInstruct, dtype: torch.dtype, at=(noisy, sigma)) -> torch.Tensor:
            return (denoise(pair.score_model, *at, dtype) - denoise(pair.teacher, *at, dtype)).double()

        truth = gradient(exact, torch.float64)
        found = {"fp32": gradient(objective, torch.float32), "bf16": gradient(objective, torch.bfloat16)}
        with Tf32():
            found["tf32"] = gradient(objective, torch.float32)
        errors = [f"{float((found[name] - truth).norm() / truth.norm()):.1e}" for name in ("fp32", "tf32", "bf16")]
        click.echo(f"| {low:g} to {high:g} | {float(truth.square().mean().sqrt()):.1e} | {' | '.join(errors)} |")


if __name__ == "__main__":
    main()
