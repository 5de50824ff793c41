"""How the score model is trained: in part, averaged, on moved images that it is told of."""

import math

import pytest
import torch

from gan_refine.errors import OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.augment import augment
from gan_refine.teachers import EdmTeacher, GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)
NO_LABELS = torch.zeros([4, 0])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unet_teacher(model_type: str = "SongUNet", **kwargs) -> EdmTeacher:
    unet = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [], **kwargs}
    net = EDMPrecond(8, 1, model_type=model_type, **unet)
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return EdmTeacher(net)


def learn(objective: DiffInstruct, fake: torch.Tensor, lr: float = 0.01, seed: int = 0) -> None:
    """One SGD step of the score model."""
    objective.helper_terms(fake, NO_LABELS[: len(fake)], rng(seed)).loss.sum().backward()
    for group in objective.helper_groups():
        for parameter in group.parameters:
            parameter.data.sub_(lr * parameter.grad)
            parameter.grad = None


@pytest.mark.parametrize("model_type", ["SongUNet", "DhariwalUNet"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_of_the_score_model_learns_and_the_rest_stays(part, model_type):
    wide = {"model_channels": 64} if model_type == "DhariwalUNet" else {}
    objective = DiffInstruct(unet_teacher(model_type, **wide), DiffInstructOptions(score_train=part))
    before = {name: value.clone() for name, value in objective.score_model.state_dict().items()}
    learn(objective, torch.randn([4, 1, 8, 8]))
    moved = {n for n, value in objective.score_model.state_dict().items() if not torch.equal(value, before[n])}
    mark = {"encoder": (".enc.",), "decoder": (".dec.", ".out_")}[part]
    assert moved
    assert all(any(m in name for m in mark) for name in moved)
    objective.generator_terms(torch.randn([4, 1, 8, 8]), NO_LABELS, rng())
    learning = {n for n, p in objective.score_model.named_parameters() if p.requires_grad}
    assert learning >= moved, "the generator's step gives back what it froze"
    assert all(any(m in name for m in mark) for name in learning)


def test_a_teacher_without_parts_can_only_be_trained_whole():
    with pytest.raises(OptionError, match="score_train=decoder needs a U-Net"):
        DiffInstruct(GaussianTeacher(0.0, 1.0, PIXEL), DiffInstructOptions(score_train="decoder"))


def test_the_generator_sees_the_average_of_the_score_model():
    """After n images the average has moved by 1 - 2^(-n / half-life) of the way; the half-life is at most n / 5."""
    plain, averaged = (
        DiffInstruct(GaussianTeacher(0.0, 1.0, PIXEL), DiffInstructOptions(score_ema=halflife)) for halflife in (0, 8)
    )
    fake = torch.zeros([4, 1, 1, 1])
    for objective in (plain, averaged):
        objective.helper_terms(fake, NO_LABELS, rng())
        objective.score_model.mean.data.fill_(1.0)  # as if the optimizer had moved it there
    averaged.generator_terms(fake, NO_LABELS, rng(1))
    assert float(averaged.average.module.mean) == pytest.approx(1 - 2**-5)
    averaged.generator_terms(fake, NO_LABELS, rng(1))
    assert float(averaged.average.module.mean) == pytest.approx(1 - 2**-5), "nothing was learnt since"
    plain.score_model.mean.data.fill_(1 - 2**-5)
    found, expected = (objective.generator_terms(fake + 0.3, NO_LABELS, rng(2)).logs for objective in (averaged, plain))
    torch.testing.assert_close(found, expected)


def test_every_step_counts_and_its_micro_batches_count_together():
    """Weights 1, 2, 3 after steps of two micro-batches of 4 images each, none seen in between; long before, the ramp has no say."""
    objective = DiffInstruct(GaussianTeacher(0.0, 1.0, PIXEL), DiffInstructOptions(score_ema=8))
    objective.average.seen.fill_(10_000)
    for weight in (1.0, 2.0, 3.0):
        for _ in range(2):
            objective.helper_terms(torch.zeros([4, 1, 1, 1]), NO_LABELS, rng())
        objective.score_model.mean.data.fill_(weight)
    assert float(objective.average.current(objective.score_model).mean) == pytest.approx(((0 + 1) / 2 + 2) / 4 + 3 / 2)


def test_the_average_starts_equal_to_the_teacher_and_is_part_of_the_state():
    objective = DiffInstruct(unet_teacher(), DiffInstructOptions(score_ema=100))
    fake = torch.randn([4, 1, 8, 8], requires_grad=True)
    objective.helper_terms(fake.detach(), NO_LABELS, rng())
    terms = objective.generator_terms(fake, NO_LABELS, rng())
    terms.loss.sum().backward()
    assert torch.equal(fake.grad, torch.zeros_like(fake))
    learn(objective, fake.detach())
    twin = DiffInstruct(objective.teacher, DiffInstructOptions(score_ema=100))
    twin.load_state_dict(objective.state_dict())
    losses = [each.generator_terms(fake, NO_LABELS, rng(1)).loss for each in (objective, twin)]
    assert torch.equal(*losses)
    assert int(twin.average.seen) == 8


def test_without_probability_nothing_moves():
    images = torch.randn([16, 1, 8, 8])
    found = augment(images, 0.0, rng())
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, torch.zeros([16, 9]))


def test_every_move_happens_as_often_as_asked_and_unmoved_images_stay_to_the_bit():
    images = torch.randn([4000, 1, 4, 4])
    found = augment(images, 0.12, rng())
    shares = (found.labels != 0).float().mean(0)
    expected = torch.tensor([0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.12, 0.12, 0.12])
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)
    still = (found.labels == 0).all(dim=1)
    assert 500 < int(still.sum()) < 2500
    assert torch.equal(found.images[still], images[still])
    only_x = (found.labels[:, 0] == 1) & (found.labels[:, 1:] == 0).all(dim=1)
    assert torch.equal(found.images[only_x], images[only_x].flip(3))
    only_y = (found.labels[:, 1] == 1) & (found.labels[:, [0, *range(2, 9)]] == 0).all(dim=1)
    assert torch.equal(found.images[only_y], images[only_y].flip(2))


def centre_near(image: torch.Tensor, place: torch.Tensor, there: tuple[float, float]) -> tuple[float, float]:
    """The centre of what lies around a point: further away there may be reflections."""
    near = ((place[None, :] - there[0]).abs() < 0.25) & ((place[:, None] - there[1]).abs() < 0.25)
    weights = torch.where(near, image.clamp(min=0), torch.zeros([])) + 1e-12
    x, y = ((weights.sum(axis) * place).sum() / weights.sum() for axis in (0, 1))
    return float(x), float(y)


def test_labels_say_where_a_spot_has_gone():
    """A spot's centre, moved by hand as the labels tell: flips, scale, rotation, stretch along an axis, translation."""
    size, n = 48, 200
    place = (torch.arange(size) + 0.5) / size * 2 - 1
    at = torch.tensor([0.16, -0.10])
    spot = torch.exp(-((place[None, :] - at[0]) ** 2 + (place[:, None] - at[1]) ** 2) / (2 * 0.05**2))
    found = augment(spot.expand(n, 1, size, size), 0.5, rng(1))
    checked = 0
    for image, label in zip(found.images[:, 0], found.labels, strict=True):
        flip_x, flip_y, scale, turn_cos, turn_sin, along, across, move_x, move_y = label.tolist()
        x, y = float(at[0]) * (1 - 2 * flip_x), float(at[1]) * (1 - 2 * flip_y)
        x, y = x * 2 ** (0.2 * scale), y * 2 ** (0.2 * scale)
        angle = math.atan2(turn_sin, turn_cos + 1)
        x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        stretch, axis = 0.2 * math.hypot(along, across), math.atan2(across, along)
        places = []
        for sign in (1, -1):  # a stretch and its inverse at the opposite angle share a label
            u, v = x * math.cos(axis) - y * math.sin(axis), x * math.sin(axis) + y * math.cos(axis)
            u, v = u * 2 ** (sign * stretch), v * 2 ** (-sign * stretch)
            there = u * math.cos(axis) + v * math.sin(axis), v * math.cos(axis) - u * math.sin(axis)
            places.append((there[0] + 2 * 0.125 * move_x, there[1] + 2 * 0.125 * move_y))
        if max(abs(value) for there in places for value in there) > 0.7:  # where the spot meets its own reflection
            continue
        assert any(centre_near(image, place, there) == pytest.approx(there, abs=0.02) for there in places), label
        checked += 1
    assert checked > 100


def test_the_score_model_is_told_of_the_moves_and_the_generators_step_is_not():
    objective = DiffInstruct(unet_teacher(augment_dim=9), DiffInstructOptions(augment=0.5))
    fake = torch.randn([4, 1, 8, 8])
    objective.helper_terms(fake, NO_LABELS, rng()).loss.sum().backward()
    gradient = objective.score_model.net.model.map_augment.weight.grad
    assert float(gradient.abs().max()) > 0
    objective.score_model.net.model.map_augment.weight.data.add_(1.0)
    found = objective.generator_terms(fake, NO_LABELS, rng())
    plain = DiffInstruct(objective.teacher).generator_terms(fake, NO_LABELS, rng())
    assert torch.equal(found.loss, plain.loss)


@pytest.mark.parametrize("kwargs", [{}, {"augment_dim": 6}])
def test_augmentation_needs_a_teacher_that_knows_it(kwargs):
    known = kwargs.get("augment_dim", 0)
    with pytest.raises(OptionError, match=rf"augment=0.12 needs a teacher .* knows {known}; leave augment out"):
        DiffInstruct(unet_teacher(**kwargs), DiffInstructOptions(augment=0.12))
    with pytest.raises(OptionError, match="leave augment out"):
        DiffInstruct(GaussianTeacher(0.0, 1.0, PIXEL), DiffInstructOptions(augment=0.12))


def test_training_options_are_checked():
    for options, message in [({"score_ema": -1}, "--score-ema=-1"), ({"augment": 1.5}, "--augment=1.5")]:
        with pytest.raises(OptionError, match=message):
            DiffInstructOptions(**options)
