"""What one Diff-Instruct step costs: `python benchmarks/step.py --size=fashion16 [--reference] [--device=cuda]`.

A step trains the score model and the generator on fresh batches (Algorithm 1 of arXiv:2305.18455) with random networks of a
known size, through the functions of gan_refine.refine. Prints images a second, time by part, peak memory, and FLOP/s beside a
matrix product of the same run. `--reference` runs, in turn with it, the published formulation: NCHW, plain blocks, two passes of
the generator, Adam and weight average tensor by tensor. Times are processor time on one thread, else elapsed time; medians.
"""

import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.config import RefineOptions
from gan_refine.fused_blocks import unfuse_blocks
from gan_refine.generators import StyleGan2
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Generator
from gan_refine.objectives import build_objective
from gan_refine.refine import RefineState, advance
from gan_refine.refine import loop as parts
from gan_refine.teachers import EdmTeacher


@dataclass(frozen=True)
class Size:
    """Constructor arguments of both networks, and a batch that fits a small machine."""

    resolution: int
    channels: int
    unet: dict[str, object]
    w_dim: int
    mapping_layers: int
    channel_base: int
    channel_max: int
    batch: int


SIZES = {
    "fashion16": Size(
        16,
        1,
        {"model_channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [8]},
        64,
        2,
        1024,
        64,
        64,
    ),
    "emoji32": Size(
        32,
        3,
        {"model_channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [16]},
        64,
        2,
        2048,
        64,
        32,
    ),
    "cifar10": Size(32, 3, {"model_channels": 128, "channel_mult": [2, 2, 2]}, 512, 2, 65536, 512, 4),
    "ffhq64": Size(64, 3, {"model_channels": 128, "channel_mult": [1, 2, 2, 2]}, 512, 8, 32768, 512, 2),
}
PARTS = ("auxiliary_gradient", "generator_gradient", "joint_gradient", "optimizer_step")  # of the loop


def networks(size: Size) -> tuple[StyleGan2, EDMPrecond]:
    torch.manual_seed(0)
    unet = EDMPrecond(size.resolution, size.channels, model_type="SongUNet", **size.unet)
    gan = Generator(
        size.w_dim,
        0,
        size.w_dim,
        size.resolution,
        size.channels,
        mapping_kwargs={"num_layers": size.mapping_layers},
        synthesis_kwargs={"channel_base": size.channel_base, "channel_max": size.channel_max},
    )
    return StyleGan2(gan), unet


class Ours:
    """The loop of gan_refine, and the seconds of its parts."""

    def __init__(self, size: Size, batch: int, device: str, joint: bool) -> None:
        generator, unet = networks(size)
        spec = "diff-instruct,joint=true" if joint else "diff-instruct"
        objective = build_objective(spec, EdmTeacher(unet)).to(device)
        options = RefineOptions(
            total_images=10**9,
            tick_images=10**9,
            batch=batch,
            batch_gpu=batch,
            pool_images=0,
            warmup_images=0,
            glr=1e-4,
        )
        self.work = advance(RefineState(generator.to(device), objective, options))
        self.seconds: dict[str, list[float]] = {}
        self.clock = clock_of(device)
        self.originals = {name: getattr(parts, name) for name in PARTS}

    def step(self) -> None:
        spent = dict.fromkeys(PARTS, 0.0)
        for name, call in self.originals.items():
            setattr(parts, name, self._timed(name, call, spent))
        try:
            next(self.work)
        finally:
            for name, call in self.originals.items():
                setattr(parts, name, call)
        for name, seconds in spent.items():
            self.seconds.setdefault(name, []).append(seconds)

    def _timed(self, name: str, call: Callable[..., None], spent: dict[str, float]) -> Callable[..., None]:
        def timed(*arguments: object) -> None:
            started = self.clock()
            call(*arguments)
            spent[name] += self.clock() - started

        return timed


class Reference:
    """The same step as the published code formulates it."""

    def __init__(self, size: Size, batch: int, device: str) -> None:
        generator, unet = networks(size)
        self.batch, self.device = batch, device
        self.generator = generator.net.to(device)
        self.teacher = unet.eval().requires_grad_(False).to(device)
        unfuse_blocks(self.teacher)
        self.score_model = copy.deepcopy(self.teacher).requires_grad_(True)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        adam = {"lr": 1e-5, "betas": (0.0, 0.999), "foreach": False, "fused": False}
        self.score_adam = torch.optim.Adam(self.score_model.parameters(), **adam)
        self.adam = torch.optim.Adam(self.generator.parameters(), **adam)

    def fake(self) -> torch.Tensor:
        z = torch.randn([self.batch, self.generator.z_dim], device=self.device)
        return self.generator(z, None)

    def noisy(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = (torch.randn([self.batch, 1, 1, 1], device=self.device) * 1.2 - 1.2).exp()
        return images + sigma * torch.randn_like(images), sigma

    def step(self) -> None:
        with torch.no_grad():
            fake = self.fake()
        noisy, sigma = self.noisy(fake)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        (weight * (self.score_model(noisy, sigma) - fake) ** 2).mean().backward()
        self.score_adam.step()
        self.score_adam.zero_grad(set_to_none=True)
        fake = self.fake()
        with torch.no_grad():
            noisy, sigma = self.noisy(fake)
            push = self.score_model(noisy, sigma) - self.teacher(noisy, sigma)
        (push * fake).sum().div(self.batch).backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mine.copy_(theirs.lerp(mine, 0.99))


def clock_of(device: str) -> Callable[[], float]:
    """Processor time on one thread: the same on a busy machine as on an idle one; else elapsed time."""
    if device != "cpu":

        def synchronized() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronized
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def ceiling(device: str) -> float:
    """FLOP/s of a float32 matrix product."""
    n, clock = 4096 if device != "cpu" else 1024, clock_of(device)
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    times = []
    for _ in range(5):
        started = clock()
        a @ b
        times.append(clock() - started)
    return 2 * n**3 / statistics.median(times)


def peak_memory(device: str, call: Callable[[], None]) -> str:
    """MiB at most while `call` runs: of the device, or resident memory on Linux."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        call()
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    status = Path("/proc/self/status")
    if not status.exists():
        call()
        return "unknown"
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    call()
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return f"{int(peak.split()[1]) / 1024:.0f} MiB resident"


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="fashion16", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=None, help="Images a step.  [default: the size's]")
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Steps of each after the first.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--joint", is_flag=True, help="One batch for both updates, the option joint=true of diff-instruct.")
@click.option("--reference", is_flag=True, help="Run the published formulation in turn.")
def main(size: str, batch: int | None, steps: int, threads: int, device: str, joint: bool, reference: bool) -> None:
    torch.set_num_threads(threads)
    batch = batch or SIZES[size].batch
    ours = Ours(SIZES[size], batch, device, joint)
    runs: dict[str, Callable[[], None]] = {"gan_refine": ours.step}
    if reference:
        runs["reference"] = Reference(SIZES[size], batch, device).step
    click.echo(f"{size}, batch {batch}, {device}, {threads} thread(s), torch {torch.__version__}, {platform.machine()}")
    flops: dict[str, float] = {}
    for name, step in runs.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
    memory = {name: peak_memory(device, step) for name, step in runs.items()}
    clock, times, rates = clock_of(device), {name: [] for name in runs}, []
    for _ in range(steps):
        rates.append(ceiling(device))
        for name, step in runs.items():
            started = clock()
            step()
            times[name].append(clock() - started)
    report(times, flops, memory, batch, statistics.median(rates))
    for name, seconds in ours.seconds.items():
        if any(seconds):
            click.echo(f"  {name}: {1000 * statistics.median(seconds[2:]) / batch:.2f} ms an image")
    if reference:
        ratios = [theirs / own for theirs, own in zip(times["reference"], times["gan_refine"], strict=True)]
        click.echo(f"gan_refine is {statistics.median(ratios):.2f} times as fast as the reference")


def report(
    times: dict[str, list[float]], flops: dict[str, float], memory: dict[str, str], batch: int, rate: float
) -> None:
    for name, seconds in times.items():
        taken = statistics.median(seconds)
        share = flops[name] / taken / rate
        click.echo(
            f"{name}: {batch / taken:.1f} images/s, {1000 * taken / batch:.2f} ms an image, {flops[name] / batch / 1e6:.0f} "
            f"MFLOP an image, {100 * share:.0f} % of {rate / 1e9:.0f} GFLOP/s, {memory[name]}"
        )


if __name__ == "__main__":
    main()
