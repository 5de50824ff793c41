"""What the CPU kernels gain: `python benchmarks/ops.py [--threads=N] [--batch=N] [--quick]`.

Prints ratios of the time that the widespread formulation in plain PyTorch takes (zeros inserted, padding, depthwise conv2d;
bias, activation, gain and clamp one after the other) to that of the kernels, run in turn in one process, forward and
forward + backward. The formulation is written out here and not taken from torch_utils.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d

SIZES = [(res, channels) for res in (16, 32, 64, 128, 256) for channels in (32, 128, 512)]
LARGEST = 2**25  # elements of an image batch, 128 MiB in float32; the batch shrinks to stay below
SECONDS = 0.6  # for each figure
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])

Op = Callable[[torch.Tensor], torch.Tensor]


def insert_pad_convolve(x: torch.Tensor, up: int, down: int, pad: tuple[int, int], gain: float) -> torch.Tensor:
    """upfirdn2d as it stands in most ports, always with the 4x4 filter."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, [*pad, *pad])
    weight = (FILTER * gain).to(x.dtype).flip([0, 1])[None, None].repeat(c, 1, 1, 1)
    return F.conv2d(x, weight, groups=c)[:, :, ::down, ::down]


def one_by_one(x: torch.Tensor, b: torch.Tensor, act: str, clamp: float) -> torch.Tensor:
    """bias_act as it stands in most ports."""
    spec = bias_act.activation_funcs[act]
    x = x + b.reshape(1, -1, 1, 1)
    x = spec.func(x, spec.def_alpha)
    return (x * spec.def_gain).clamp(-clamp, clamp)


def pairs(channels: int) -> dict[str, tuple[Op, Op]]:
    """The formulation and the kernel of each case."""
    b = torch.randn(channels, requires_grad=True)
    cases: dict[str, tuple[Op, Op]] = {}
    for name, up, down, pad in [
        ("upfirdn2d up 2", 2, 1, (2, 1)),
        ("upfirdn2d down 2", 1, 2, (1, 1)),
        ("upfirdn2d 1x", 1, 1, (2, 1)),
    ]:
        cases[name] = (
            lambda x, up=up, down=down, pad=pad: insert_pad_convolve(x, up, down, pad, up**2),
            lambda x, up=up, down=down, pad=pad: upfirdn2d.upfirdn2d(
                x, FILTER, up=up, down=down, padding=[*pad, *pad], gain=up**2
            ),
        )
    for act in ("lrelu", "linear", "swish"):
        cases[f"bias_act {act}"] = (
            lambda x, act=act: one_by_one(x, b, act, 2.0),
            lambda x, act=act: bias_act.bias_act(x, b, act=act, clamp=2.0),
        )
    return cases


def compare(before: Op, after: Op, x: torch.Tensor, backward: bool) -> float:
    """Median time of `before` over that of `after`, run in turn."""
    # One thread's own time is the same on a busy machine as on an idle one.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    x = x.detach().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        weights = torch.randn_like(after(x)).detach()
        difference = (before(x) - after(x)).abs().max()
        assert difference < 1e-4, f"the two differ by {difference}"
        seconds: dict[Op, list[float]] = {before: [], after: []}
        deadline = time.perf_counter() + SECONDS
        while len(seconds[after]) < 5 or time.perf_counter() < deadline:
            for op, times in seconds.items():
                started = clock()
                y = op(x)
                if backward:
                    torch.autograd.grad(y, x, weights)
                times.append(clock() - started)
    return statistics.median(seconds[before]) / statistics.median(seconds[after])


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@click.command(help=__doc__)
@click.option("--threads", default=torch.get_num_threads(), show_default="torch's", type=click.IntRange(1))
@click.option(
    "--batch", default=8, show_default=True, type=click.IntRange(1), help="Images, fewer where they get large."
)
@click.option("--quick", is_flag=True, help="The smallest and a middle size only.")
def main(threads: int, batch: int, quick: bool) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reason = custom_ops.why_not("cpu")
    if reason is not None:
        raise click.ClickException(f"there is nothing to compare: {reason}")
    print(f"commit {commit()}, torch {torch.__version__}, {threads} threads, {platform.machine()}, {platform.system()}")
    print(f"{'case':18} {'batch':>5} {'channels':>8} {'size':>5}  forward  forward + backward")
    found: dict[str, list[float]] = {}
    for resolution, channels in [SIZES[0], SIZES[7]] if quick else SIZES:
        n = max(1, min(batch, LARGEST // (channels * resolution**2)))
        x = torch.randn(n, channels, resolution, resolution)
        for name, (before, after) in pairs(channels).items():
            ratios = [compare(before, after, x, backward) for backward in (False, True)]
            found.setdefault(name.split()[0], []).extend(ratios)
            print(f"{name:18} {n:5} {channels:8} {resolution:5}  {ratios[0]:6.1f}x  {ratios[1]:6.1f}x", flush=True)
    for op, ratios in found.items():
        print(f"{op}: median {statistics.median(ratios):.1f}x, least {min(ratios):.2f}x, of {len(ratios)}")


if __name__ == "__main__":
    main()
