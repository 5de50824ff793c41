"""The weight average of the score model, which is told of each step."""

import pytest
import torch
from toys import gradient_at, no_labels, rng, small_unet

from gan_refine.config import RefineOptions
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.refine import RefineState, advance
from gan_refine.teachers import EdmTeacher, GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)


def gaussian(score_ema: int) -> DiffInstruct:
    return DiffInstruct(GaussianTeacher(0.0, 1.0, PIXEL), DiffInstructOptions(score_ema=score_ema))


def test_the_generators_step_uses_the_average_of_the_score_model():
    """After n images the average has moved by 1 - 2^(-n / half-life) of the way; the half-life is at most n / 5."""
    plain, averaged = gaussian(0), gaussian(8)
    for objective in (plain, averaged):
        objective.score_model.mean.data.fill_(1.0)  # as if the optimizer had moved it there
        objective.auxiliary_stepped(4)
    assert float(averaged.average.module.mean) == pytest.approx(1 - 2**-5)
    fake = torch.full([4, 1, 1, 1], 0.3)
    gradient_at(averaged, fake)
    assert float(averaged.average.module.mean) == pytest.approx(1 - 2**-5), "the generator's step leaves it"
    plain.score_model.mean.data.fill_(1 - 2**-5)
    found, expected = (gradient_at(objective, fake, seed=2) for objective in (averaged, plain))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1].logs, expected[1].logs)


def test_every_step_counts_with_its_images():
    """Weights 1, 2, 3 after steps of 8 images each, one half-life; after so many images the ramp-up has no effect."""
    objective = gaussian(8)
    objective.average.seen.fill_(10_000)
    for weight in (1.0, 2.0, 3.0):
        objective.score_model.mean.data.fill_(weight)
        objective.auxiliary_stepped(8)
    assert float(objective.average.module.mean) == pytest.approx(((0 + 1) / 2 + 2) / 4 + 3 / 2)
    assert int(objective.average.seen) == 10_024


@pytest.mark.parametrize("batch_gpu", [2, 8])
def test_the_loop_tells_of_whole_batches_and_not_of_skipped_steps(batch_gpu):
    """A warm-up of 3 steps, and 4 steps of the generator."""
    objective = gaussian(8)
    sizes = {"total_images": 32, "batch": 8, "batch_gpu": batch_gpu, "warmup_images": 24}
    state = RefineState(AffineGenerator(0.5, 0.5, PIXEL), objective, RefineOptions(**sizes))
    whole = objective.auxiliary_loss
    broken = iter(range(8 // batch_gpu))  # the micro-batches of the first step

    def auxiliary_loss(*given):
        loss = whole(*given)
        return loss if next(broken, None) is None else type(loss)(loss.per_sample * float("nan"), loss.sigma, loss.logs)

    objective.auxiliary_loss = auxiliary_loss
    for _ in advance(state):
        pass
    assert int(objective.average.seen) == 8 * (3 + 4 - 1)


def test_the_average_starts_equal_to_the_teacher_and_is_part_of_the_state():
    objective = DiffInstruct(EdmTeacher(small_unet(8, shift=0.1)), DiffInstructOptions(score_ema=100))
    fake = torch.randn([4, 1, 8, 8])
    assert torch.equal(gradient_at(objective, fake)[0], torch.zeros_like(fake))
    objective.auxiliary_loss(fake, no_labels(4), rng()).per_sample.sum().backward()
    for parameter in objective.auxiliary_groups()[0].parameters:
        parameter.data.sub_(0.01 * parameter.grad)
    objective.auxiliary_stepped(4)
    twin = DiffInstruct(objective.teacher, DiffInstructOptions(score_ema=100))
    twin.load_state_dict(objective.state_dict())
    (gradient, _), (again, _) = (gradient_at(each, fake, seed=1) for each in (objective, twin))
    assert torch.equal(gradient, again) and gradient.abs().max() > 0
    assert int(twin.average.seen) == 4
