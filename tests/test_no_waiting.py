"""On a GPU no step waits for a number: nothing is read between ticks, and a step that is not finite changes nothing."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import Quadratic, small_stylegan2, small_unet

from gan_refine.config import RefineOptions
from gan_refine.errors import NonFiniteError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import build_objective
from gan_refine.refine import RefineState, advance
from gan_refine.refine.trial import give_stand_ins
from gan_refine.teachers import EdmTeacher

WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "_unique2",
}  # operations whose result the host reads
STEPS = 6
OPTIONS = RefineOptions(
    total_images=4 * STEPS, tick_images=4 * STEPS, batch=4, batch_gpu=2, warmup_images=4, clip_grad=1.0
)


class Readings(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.overloadpacket is torch.ops.aten.index and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if func.overloadpacket.__name__ in WAITING or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does what it does on a GPU: a fused optimizer skips steps, and nothing is read between ticks."""
    monkeypatch.setattr(RefineState, "on_gpu", True)


def units(state: RefineState) -> Iterator[bool]:
    """After each unit of work, whether the next is the last, which ends in a tick."""
    for _ in advance(state):
        yield state.images + state.options.batch >= state.options.total_images


def small_state(objective: str, device: str = "cpu") -> RefineState:
    generator = small_stylegan2(8, 0, 0.1).to(device)
    made = build_objective(objective, EdmTeacher(small_unet(8)).to(device))
    give_stand_ins(made, generator.spec)
    return RefineState(generator, made, OPTIONS)


RUNS = [
    "diff-instruct",
    "diff-instruct,joint=true",
    "sid",
    "diff-instruct-dmd",
    "di-gan,samples=64,steps=2,window=8,activations=0.5,discriminator=fresh",
]


@pytest.mark.parametrize("objective", RUNS)
def test_nothing_is_read_between_ticks(objective: str, like_a_gpu: None) -> None:
    state = small_state(objective)
    steps, readings = units(state), Readings()
    draw = state.generator.draw

    def uncounted(n: int, rng: torch.Generator):
        before = len(readings.found)  # the noise seed of a generator on the CPU, where reading is free
        latents = draw(n, rng)
        del readings.found[before:]
        return latents

    state.generator.draw = uncounted  # type: ignore[method-assign]
    with readings:
        while not next(steps):
            assert not readings.found
        next(steps)
    assert state.finished and readings.found, "a tick reads"


@pytest.mark.gpu
@pytest.mark.parametrize("objective", RUNS)
def test_no_step_synchronizes_with_the_device(objective: str) -> None:
    steps = units(small_state(objective, "cuda"))
    next(steps)  # the first makes kernels and optimizer states
    try:
        torch.cuda.set_sync_debug_mode("error")
        while not next(steps):
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_fused_optimizer_skips_what_is_not_finite_and_the_next_tick_stops(like_a_gpu: None) -> None:
    generator = AffineGenerator(0.5, 0.0, ImageSpec(1, 4))
    options = RefineOptions(64, 4, 4, warmup_images=0, tick_images=16, max_skips=2, lr_rampup=0)
    state, seen = RefineState(generator, Quadratic(), options), []
    with pytest.raises(NonFiniteError):
        for progress in advance(state):
            seen.append(generator.scale.detach().clone())
            if len(seen) == 2:
                state.objective.scale = float("inf")
            skipped = progress.health.skipped_steps if progress else 0
    assert len(seen) == 4 and skipped == 2
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[3])
