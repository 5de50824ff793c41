"""Objectives as compositions: closed forms of every gradient, exact zeros, fixed points, what each preset is made of."""

import math

import pytest
import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, Terms
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.noise import Karras, LogNormal
from gan_refine.objectives import OBJECTIVES, Sid, SidOptions, Sim, SimOptions, build_objective
from gan_refine.objectives.composed import Composed, Scored
from gan_refine.refine import RefineState, pool_batch, refine
from gan_refine.teachers import EdmTeacher, GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)
# With options that need no discriminator from a file.
SCORED = [
    f"{name},start=fresh" if name == "carried" else name for name, cls in OBJECTIVES.items() if issubclass(cls, Scored)
]


def gradient_at(objective, fake: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, Terms]:
    fake = fake.clone().requires_grad_()
    terms = objective.generator_terms(fake, torch.zeros([len(fake), 0]), torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad(terms.loss.sum(), fake)
    return gradient, terms


def small_teacher() -> EdmTeacher:
    unet = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    net = EDMPrecond(8, 3, model_type="SongUNet", **unet)
    for parameter in net.parameters():  # fresh networks end in near-zero layers, which would make any gradient small
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return EdmTeacher(net)


def gaussian_pair(spec: str, mean: float = -0.3, deviation: float = 0.8) -> Scored:
    """An objective with teacher N(1, 0.5^2) whose score model is right for fakes of the given Gaussian."""
    objective = build_objective(spec, GaussianTeacher(1.0, 0.5, PIXEL))
    assert isinstance(objective, Scored)
    objective.score_model.mean.data.fill_(mean)
    objective.score_model.log_deviation.data.fill_(math.log(deviation))
    return objective


class Affine:
    """D(x_t) = slope x_t + offset of a Gaussian, and x_t itself, in float64, with the noise that `gradient_at` drew."""

    def __init__(self, objective: Scored, fake: torch.Tensor, terms: Terms, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        objective.recipe.law.sample(len(fake), rng)
        self.sigma = terms.sigma.double().reshape(-1, 1, 1, 1)
        self.noisy = fake.double() + self.sigma * torch.randn(fake.shape, generator=rng).double()

    def slope(self, deviation: float) -> torch.Tensor:
        return deviation**2 / (deviation**2 + self.sigma**2)

    def denoised(self, mean: float, deviation: float) -> torch.Tensor:
        return self.slope(deviation) * self.noisy + (1 - self.slope(deviation)) * mean


@pytest.mark.parametrize("name", SCORED)
def test_gradient_is_exactly_zero_while_score_model_equals_teacher(name):
    objective = build_objective(name, small_teacher())
    fake = torch.randn([16, 3, 8, 8])
    gradient, _ = gradient_at(objective, fake)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    seen = objective.score_model if objective.average is None else objective.average.module
    next(seen.parameters()).data.add_(0.01)
    gradient, _ = gradient_at(objective, fake)
    assert gradient.abs().max() > 0


def test_a_constant_weight_gives_the_difference_of_scores():
    """Eq. 3.2 of arXiv:2305.18455 with w = 1."""
    objective, fake = gaussian_pair("diff-instruct,weight=score"), torch.randn([64, 1, 1, 1])
    gradient, terms = gradient_at(objective, fake, seed=3)
    exact = Affine(objective, fake, terms, seed=3)
    scores = [(m - exact.noisy) / (s**2 + exact.sigma**2) for m, s in [(-0.3, 0.8), (1.0, 0.5)]]
    torch.testing.assert_close(gradient.double(), scores[0] - scores[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_gradient_equals_the_closed_form_for_gaussians(alpha):
    """d/dx of (D_d - D_g) [(D_d - x) - alpha (D_d - D_g)] / |x - D_d| with the divisor held, through x_t = x + sigma n."""
    objective = gaussian_pair(f"sid,alpha={alpha},sigma=lognormal")
    fake = 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, terms = gradient_at(objective, fake, seed=4)
    exact = Affine(objective, fake, terms, seed=4)
    d_d, d_g, x = exact.denoised(1.0, 0.5), exact.denoised(-0.3, 0.8), fake.double()
    gap, slope = d_d - d_g, exact.slope(0.5) - exact.slope(0.8)
    through = slope * (d_d - x - alpha * gap) + gap * (exact.slope(0.5) - 1 - alpha * slope)
    torch.testing.assert_close(gradient.double(), through / (x - d_d).abs(), rtol=1e-3, atol=1e-4)
    loss = (gap * (d_d - x - alpha * gap) / (x - d_d).abs()).flatten()
    torch.testing.assert_close(terms.loss.double(), loss, rtol=1e-3, atol=1e-4)


def test_score_implicit_matching_differentiates_its_weight():
    """d/dx of (D_d - D_g) (D_g - x) / r with r = sqrt(|D_d - D_g|^2 + c^2)."""
    objective, fake = gaussian_pair("sim,huber=0.3,sigma=lognormal"), 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, terms = gradient_at(objective, fake, seed=5)
    exact = Affine(objective, fake, terms, seed=5)
    d_d, d_g, x = exact.denoised(1.0, 0.5), exact.denoised(-0.3, 0.8), fake.double()
    gap, slope = d_d - d_g, exact.slope(0.5) - exact.slope(0.8)
    r = (gap**2 + 0.3**2).sqrt()
    expected = (slope * (d_g - x) + gap * (exact.slope(0.8) - 1)) / r - gap**2 * slope * (d_g - x) / r**3
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_wide_pseudo_huber_weight_is_that_of_sid_with_alpha_1_up_to_a_constant():
    wide = gaussian_pair("sim,huber=1000,sigma=lognormal")
    sid = gaussian_pair("sid,alpha=1,sigma=lognormal")
    fake = torch.randn([32, 1, 1, 1])
    found, terms = gradient_at(wide, fake, seed=6)
    expected, _ = gradient_at(sid, fake, seed=6)
    residual = (fake.double() - Affine(sid, fake, terms, seed=6).denoised(1.0, 0.5)).abs()
    torch.testing.assert_close(1000 * found.double(), expected * residual, rtol=1e-3, atol=1e-4)


def test_the_dmd_preset_is_diff_instruct_with_dmds_choices():
    preset = gaussian_pair("diff-instruct-dmd")
    spelt = gaussian_pair("diff-instruct,weight=dmd,sigma=karras,score_steps=5")
    assert preset.helper_steps == spelt.helper_steps == 5
    assert preset.recipe.law == Karras(lower=0.02, upper=0.98)
    fake = torch.randn([32, 1, 1, 1])
    assert torch.equal(gradient_at(preset, fake)[0], gradient_at(spelt, fake)[0])


@pytest.mark.parametrize("name", ["sid", "sim"])
def test_sid_and_sim_draw_from_the_lower_80_percent_of_the_grid(name):
    law = build_objective(name, GaussianTeacher(0.0, 1.0, PIXEL)).recipe.law
    sigma = law.sample(20_000, torch.Generator().manual_seed(0))
    assert float(sigma.min()) == pytest.approx(0.002, rel=0.02)
    assert float(sigma.max()) == pytest.approx(24.4, rel=0.01)


def test_diff_instruct_and_sds_draw_edms_law_by_default():
    for name in ("diff-instruct", "sds"):
        assert build_objective(name, GaussianTeacher(0.0, 1.0, PIXEL)).recipe.law == LogNormal(-1.2, 1.2)


@pytest.mark.parametrize("name", SCORED)
def test_the_generators_step_leaves_both_networks_without_gradient_and_the_score_model_trainable(name):
    objective = build_objective(name, small_teacher())
    next(objective.score_model.parameters()).data.add_(0.01)
    fake = torch.randn([4, 3, 8, 8], requires_grad=True)
    labels, rng = torch.zeros([4, 0]), torch.Generator().manual_seed(0)
    objective.generator_terms(fake, labels, rng).loss.sum().backward()
    assert fake.grad is not None
    assert all(parameter.grad is None for parameter in objective.parameters())
    objective.helper_terms(fake.detach(), labels, rng).loss.sum().backward()
    assert all(parameter.grad is not None for parameter in objective.helper_groups()[0].parameters)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


@pytest.mark.parametrize(
    ("spec", "glr"),
    [
        ("diff-instruct,weight=score", 0.03),
        ("diff-instruct-dmd", 0.03),
        ("sid", 0.03),
        ("sid,alpha=1", 0.03),
        ("sim", 0.03),
    ],
)
def test_gaussian_generator_reaches_its_teacher(spec, glr):
    """Truth 1: x = a z + b refined against N(1, 0.5^2) ends at that mean and deviation."""
    image = ImageSpec(channels=1, resolution=4)
    generator = AffineGenerator(scale=0.8, shift=-0.5, spec=image)
    objective = build_objective(spec, GaussianTeacher(1.0, 0.5, image))
    sizes = {"total_images": 64 * 200, "batch": 64, "batch_gpu": 64, "tick_images": 64 * 200, "warmup_images": 0}
    options = RefineOptions(pool_images=0, glr=glr, score_lr=0.1, beta1=0.0, beta2=0.99, **sizes)
    *_, last = refine(generator, objective, options)
    assert float(last.average.shift) == pytest.approx(1.0, abs=0.05)
    assert abs(float(last.average.scale)) == pytest.approx(0.5, abs=0.05)


def test_pools_follow_gradients_that_run_through_the_networks():
    image = ImageSpec(1, 4)
    objective = Sid(GaussianTeacher(1.0, 0.5, image))
    objective.score_model.mean.data.fill_(0.0)
    options = RefineOptions(pool_images=8, pool_moves=2, batch=8, batch_gpu=4)
    pool = pool_batch(RefineState(AffineGenerator(0.5, 0.0, image), objective, options), images=0)
    moved = torch.cat([part.target for part in pool])
    assert float(moved.mean()) > 0.3, "towards the teacher's mean of 1"
    assert all(parameter.grad is None for parameter in objective.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sid,sigma_from=0.8,sigma_to=0.5", "--sigma-to=0.5"),
        ("sid,sigma_from=-0.1", "--sigma-from=-0.1"),
        ("sid,alpha=nan", "--alpha=nan"),
        ("sim,huber=0", "--huber=0.0"),
        ("sds,sigma_std=0", "--sigma-std=0.0"),
        ("diff-instruct-dmd,score_steps=0", "--score-steps=0"),
        ("sid,weight=dmd", "unknown option 'weight' of objective sid"),
        ("diff-instruct,weight=one", "choose one of sigma2, dmd, score"),
    ],
)
def test_bad_options_are_named(spec, message):
    with pytest.raises(OptionError, match=message):
        build_objective(spec, GaussianTeacher(0.0, 1.0, PIXEL))


def test_presets_can_be_built_from_their_options():
    teacher = GaussianTeacher(0.0, 1.0, PIXEL)
    assert Sid(teacher, SidOptions(alpha=1.0)).recipe.form.alpha == 1.0
    assert isinstance(Sim(teacher, SimOptions()), Composed)
