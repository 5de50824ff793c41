"""The adversarial objective on teacher samples."""

import pytest
import torch
from toys import no_labels, rng

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.objectives import Adversarial, AdversarialOptions, GanFile, build_objective
from gan_refine.objectives.adversarial import discriminator_loss
from gan_refine.refine import RefineState, advance, fingerprints, load_state, record_state, refine
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(channels=1, resolution=8)
FEW = {"samples": 64, "steps": 40, "discriminator_width": 8, "start": "fresh"}


def adversarial(**options) -> Adversarial:
    return Adversarial(GaussianTeacher(0.5, 0.25, SPEC), AdversarialOptions(**{**FEW, **options}))


def test_samples_are_those_of_the_teacher_and_are_made_once():
    objective = adversarial()
    assert len(objective.samples) == 0, "none before the first step"
    objective.auxiliary_loss(torch.randn([4, 1, 8, 8]), no_labels(4), rng())
    first = objective.samples
    assert first.shape == (64, 1, 8, 8)
    assert float(first.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(first.std()) == pytest.approx(0.25, rel=0.1)
    objective.auxiliary_loss(torch.randn([4, 1, 8, 8]), no_labels(4), rng(1))
    assert objective.samples is first
    other = adversarial()
    other.auxiliary_loss(torch.randn([4, 1, 8, 8]), no_labels(4), rng(2))
    assert torch.equal(other.samples, first), "on every process alike"


def test_the_generators_step_leaves_no_gradient_on_the_discriminator():
    objective, fake = adversarial(push=0.1), torch.randn([4, 1, 8, 8], requires_grad=True)
    objective.generator_loss(fake, no_labels(4), rng()).per_sample.sum().backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    groups = objective.auxiliary_groups()
    assert [group.lr for group in groups] == [2.5e-3, None]
    assert all(parameter.grad is None for group in groups for parameter in group.parameters)
    objective.auxiliary_loss(fake.detach(), no_labels(4), rng()).per_sample.sum().backward()
    for group in groups:
        assert sum(float(p.grad.abs().sum()) for p in group.parameters if p.grad is not None) > 0


def test_the_generator_moves_to_the_teachers_mean():
    generator = AffineGenerator(scale=0.25, shift=-0.5, spec=SPEC)
    sizes = {"total_images": 16 * 100, "batch": 16, "batch_gpu": 16, "tick_images": 16 * 100}
    *_, last = refine(generator, adversarial(), RefineOptions(pool_images=0, glr=0.03, **sizes))
    assert float(last.average.shift) == pytest.approx(0.5, abs=0.2)


def test_a_discriminator_learns_to_tell_and_r1_is_the_squared_gradient():
    torch.manual_seed(0)
    discriminator = Discriminator(0, 8, 1, "orig", 64, 8)
    fake, real = torch.randn(16, 1, 8, 8) * 0.1, torch.randn(16, 1, 8, 8) * 0.1 + 0.3
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=4e-3, betas=(0.0, 0.99))

    def loss(r1_gamma: float = 0.0) -> torch.Tensor:
        return discriminator_loss(discriminator, real, fake, None, None, r1_gamma)

    before = loss().mean().item()
    for _ in range(15):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
    assert loss().mean().item() < 0.8 * before
    leaf = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(leaf, None).sum(), leaf)
    penalty = 0.1 * 16 * slope.square().flatten(1).sum(1)
    torch.testing.assert_close(loss(0.2) - loss(), penalty, rtol=1e-4, atol=1e-5)


def own_discriminator(resolution: int = 8, classes: int = 0) -> GanFile:
    torch.manual_seed(0)
    discriminator = Discriminator(classes, resolution, 1, "orig", 64, 8).requires_grad_(False)
    return GanFile(lambda: discriminator)


def test_the_discriminator_of_the_file_is_the_default():
    gan = own_discriminator()
    objective = build_objective("adversarial,samples=64", GaussianTeacher(0.5, 0.25, SPEC), gan)
    assert isinstance(objective, Adversarial) and objective.discriminator is gan.discriminator()
    assert all(parameter.requires_grad for parameter in objective.discriminator.parameters())


@pytest.mark.parametrize(
    "gan, message",
    [
        (None, "holds no discriminator; give --objective=adversarial,start=fresh"),
        (own_discriminator(resolution=16), "for images of its full size, the teacher's are 8x8 grey; give"),
        (
            own_discriminator(classes=3),
            "needs the class of each image, which samples of a teacher without classes do not",
        ),
    ],
)
def test_discriminators_that_cannot_be_used_are_refused(gan, message):
    with pytest.raises(OptionError, match=message):
        build_objective("adversarial", GaussianTeacher(0.5, 0.25, SPEC), gan)


def ended(pool_images: int, interrupt: int | None = None) -> RefineState:
    """The state after a short run; with `interrupt`, recorded after so many units of work and resumed by other objects."""

    def fresh() -> RefineState:
        options = AdversarialOptions(**{**FEW, "start": "pickle", "steps": 3, "push": 0.5})
        objective = Adversarial(GaussianTeacher(0.5, 0.25, SPEC), options, own_discriminator())
        sizes = {"total_images": 32, "batch": 8, "batch_gpu": 4, "warmup_images": 16, "pool_images": pool_images}
        generator = AffineGenerator(scale=0.25, shift=-0.5, spec=SPEC)
        return RefineState(generator, objective, RefineOptions(pool_epochs=1, **sizes))

    state = fresh()
    for number, _ in enumerate(advance(state), start=1):
        if number == interrupt:
            resumed = fresh()
            load_state(resumed, record_state(state))
            for _ in advance(resumed):
                pass
            return resumed
    return state


@pytest.mark.parametrize("pool_images", [0, 16])
def test_a_resumed_run_ends_in_the_same_bits(pool_images):
    whole, resumed = ended(pool_images), ended(pool_images, interrupt=4)
    assert fingerprints(whole) == fingerprints(resumed)
    assert {"generator optimizer", "auxiliary optimizer", "objective"} < set(fingerprints(whole))
    assert resumed.images == whole.images == 32
    names = set(record_state(whole)["objective"])
    assert "samples" in names and not any(name.startswith("teacher") for name in names)
    before, after = own_discriminator().discriminator().state_dict(), whole.objective.discriminator.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before), "it learned"
