"""Carrying images from one distribution to another, the critic that learns from them, and pools with both."""

import math

import pytest
import torch

from gan_refine import assets
from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import load_stylegan2
from gan_refine.interfaces import Images, ImageSpec, Labels, PairedObjective, Sigma
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.noise import karras_grid
from gan_refine.objectives import Carried, CarriedOptions, DiffInstruct, build_objective
from gan_refine.objectives.critics import critic_loss, fooling_loss
from gan_refine.refine import RefineState, advance, pool_batch
from gan_refine.sampling import carry, multistep
from gan_refine.teachers import GaussianTeacher, load_edm

SPEC = ImageSpec(channels=1, resolution=4, num_classes=0)
SHORT = RefineOptions(
    total_images=32, batch=8, batch_gpu=4, warmup_images=16, pool_images=16, pool_epochs=2, tick_images=16, pool_moves=1
)
QUICK = CarriedOptions(steps=2, critic_width=8, start="fresh")


def gaussian(mean: float, deviation: float) -> GaussianTeacher:
    return GaussianTeacher(mean, deviation, SPEC)


def images(n: int) -> torch.Tensor:
    return 0.3 + 0.2 * torch.randn([n, 1, 4, 4], generator=torch.Generator().manual_seed(1))


def no_labels(n: int) -> torch.Tensor:
    return torch.zeros([n, 0])


def test_overshoot_goes_so_many_times_the_way_and_stays_within_range():
    fake = images(6)
    plain, far = (Carried(gaussian(0.1, 0.5), CarriedOptions(start="fresh", overshoot=k)) for k in (1.0, 1.5))
    for objective in (plain, far):
        objective.score_model.load_state_dict(gaussian(0.3, 0.2).state_dict())
    way = plain.carry(fake, no_labels(6)) - fake
    assert float(way.abs().max()) > 0.1
    torch.testing.assert_close(far.carry(fake, no_labels(6)), (fake + 1.5 * way).clamp(-1, 1), atol=1e-5, rtol=1e-5)
    with pytest.raises(OptionError, match="overshoot"):
        CarriedOptions(overshoot=0)


def test_the_multistep_solver_follows_the_closed_form_of_a_gaussian_in_both_directions():
    mean, deviation, top = 0.1, 0.5, 2.5
    x = images(6)
    levels = karras_grid(24, 0.02, top, 7.0)[:-1]
    growth = math.sqrt((deviation**2 + top**2) / (deviation**2 + 0.02**2))
    lifted = multistep(gaussian(mean, deviation), x, no_labels(6), levels[::-1])
    torch.testing.assert_close(lifted, mean + growth * (x - mean), rtol=2e-3, atol=2e-3)
    back = multistep(gaussian(mean, deviation), lifted, no_labels(6), levels)
    torch.testing.assert_close(back, x, rtol=2e-3, atol=2e-3)


class Parabola(GaussianTeacher):
    """A denoiser whose answer is a parabola in u = -ln sigma, whatever the image: then the ODE has a closed form."""

    def forward(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images:
        u = -sigma.log()
        return (0.5 - 0.3 * u + 0.2 * u**2).expand_as(noisy)


def test_from_the_third_step_on_the_solver_is_exact_where_the_denoiser_is_a_parabola():
    levels = [1.0, 0.7, 0.4, 0.2, 0.05]
    x = images(3)
    states = [multistep(Parabola(0, 1, SPEC), x, no_labels(3), levels[:n]) for n in (3, 4, 5)]

    def particular(sigma: float) -> float:
        u = -math.log(sigma)
        return (0.5 - 0.3 * u + 0.2 * u**2) - (-0.3 + 0.4 * u) + 0.4

    for (sigma, before), (following, after) in [
        ((levels[2], states[0]), (levels[3], states[1])),
        ((levels[3], states[1]), (levels[4], states[2])),
    ]:
        expected = particular(following) + (before - particular(sigma)) * following / sigma
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)


def test_carried_images_are_those_of_the_other_gaussian_seen_from_the_same_noise():
    top, low = 2.5, 0.02
    source, target = gaussian(0.3, 0.2), gaussian(-0.2, 0.4)
    x = images(64)
    lifted = 0.3 + math.sqrt((0.2**2 + top**2) / (0.2**2 + low**2)) * (x - 0.3)
    expected = -0.2 + 0.4 / math.sqrt(0.4**2 + top**2) * (lifted + 0.2)
    torch.testing.assert_close(carry(source, target, x, no_labels(64), top, 30), expected, rtol=0.02, atol=0.01)


def test_equal_denoisers_carry_nothing():
    x = images(8)
    moved = carry(gaussian(0.3, 0.2), gaussian(0.3, 0.2), x, no_labels(8), 2.5, 30)
    assert float((moved - x).abs().max()) < 0.01, "but for the noise that the lowest level leaves out"


def test_a_critic_learns_to_tell_and_the_penalty_is_the_squared_gradient():
    torch.manual_seed(0)
    critic = Discriminator(0, 8, 1, "orig", 64, 8)
    fake, real = torch.randn(16, 1, 8, 8) * 0.1, torch.randn(16, 1, 8, 8) * 0.1 + 0.3
    optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.0, 0.99))
    before = critic_loss(critic, real, fake, None, 0.0).mean().item()
    for _ in range(15):
        optimizer.zero_grad()
        critic_loss(critic, real, fake, None, 0.0).mean().backward()
        optimizer.step()
    assert critic_loss(critic, real, fake, None, 0.0).mean().item() < 0.8 * before
    leaf = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(leaf, None).sum(), leaf)
    extra = critic_loss(critic, real, fake, None, 0.2) - critic_loss(critic, real, fake, None, 0.0)
    torch.testing.assert_close(extra, 0.1 * 16 * slope.square().flatten(1).sum(1), rtol=1e-4, atol=1e-5)


def test_fooling_gives_the_critic_no_gradient():
    critic = Discriminator(0, 8, 1, "orig", 64, 8)
    fake = torch.zeros([4, 1, 8, 8], requires_grad=True)
    fooling_loss(critic, fake, None).sum().backward()
    assert fake.grad is not None and bool((fake.grad != 0).any())
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())


@pytest.fixture(scope="module")
def pair():
    return load_stylegan2(assets.resolve("gan", "fashion16")), load_edm(assets.resolve("teacher", "fashion16"))


def test_auto_takes_the_gans_own_discriminator_as_critic(pair):
    generator, teacher = pair
    objective = build_objective("carried", teacher, generator.critic)
    assert isinstance(objective, Carried)
    own = generator.critic()
    assert own is not None and torch.equal(objective.critic.b4.out.weight, own.b4.out.weight)


def test_pools_of_the_best_objective_hold_moved_and_carried_images(pair):
    generator, teacher = pair
    objective = Carried(teacher, QUICK)
    assert isinstance(objective, PairedObjective) and not isinstance(DiffInstruct(teacher), PairedObjective)
    state = RefineState(load_stylegan2(assets.resolve("gan", "fashion16")), objective, SHORT)
    parts = pool_batch(state, images=0)
    assert [len(part.target) for part in parts] == [4, 4]
    with torch.no_grad():
        own = generator(parts[0].latents)
    assert parts[0].carried is not None
    torch.testing.assert_close(parts[0].carried, objective.carry(own, parts[0].latents.labels))
    assert float(parts[0].carried.abs().max()) <= 1
    plain = pool_batch(RefineState(generator, DiffInstruct(teacher), SHORT), images=0)
    assert plain[0].carried is None


def run(interrupt: int | None = None) -> RefineState:
    """A short run; with `interrupt`, recorded after so many units of work and gone on with by other objects."""

    def fresh() -> RefineState:
        torch.manual_seed(3)
        generator = load_stylegan2(assets.resolve("gan", "fashion16"))
        teacher = load_edm(assets.resolve("teacher", "fashion16"))
        return RefineState(generator, Carried(teacher, QUICK), SHORT, frozen=[teacher])

    state = fresh()
    for number, _ in enumerate(advance(state), start=1):
        if number == interrupt:
            other = fresh()
            other.load(state.record())
            return run_to_end(other)
    return state


def run_to_end(state: RefineState) -> RefineState:
    for _ in advance(state):
        pass
    return state


def test_generator_and_critic_both_learn_and_a_run_goes_on_bit_for_bit():
    whole, resumed = run(), run(interrupt=6)
    for name, digest in whole.fingerprints().items():
        assert resumed.fingerprints()[name] == digest, name
    assert "optimiser of the critic" in whole.fingerprints()
    torch.manual_seed(3)
    before = Carried(load_edm(assets.resolve("teacher", "fashion16")), QUICK).critic.state_dict()
    assert isinstance(whole.objective, Carried)
    after = whole.objective.critic.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_options_that_cannot_be_are_refused(pair):
    _, teacher = pair
    with pytest.raises(OptionError, match="holds no discriminator"):
        build_objective("carried", teacher)
    with pytest.raises(OptionError, match="sigma-max"):
        CarriedOptions(sigma_max=0)
    generator = load_stylegan2(assets.resolve("gan", "fashion16"))
    with pytest.raises(OptionError, match="pool-kimg"):
        RefineState(generator, Carried(teacher, QUICK), RefineOptions(pool_images=0))
