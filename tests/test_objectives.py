"""The truths of the method: closed forms, exact zeros, fixed points."""

import math

import pytest
import torch

from gan_refine.config import RefineOptions
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, Terms
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.objectives import DiffInstruct, DiffInstructOptions, Sds
from gan_refine.refine import Health, refine
from gan_refine.teachers import EdmTeacher, GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)
NO_LABELS = torch.zeros([64, 0])


def gradient_at(objective, fake: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, Terms]:
    fake = fake.clone().requires_grad_()
    labels = torch.zeros([len(fake), 0])
    terms = objective.generator_terms(fake, labels, torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad(terms.loss.sum(), fake)
    return gradient, terms


@pytest.mark.parametrize("weight", ["sigma2", "dmd"])
def test_gradient_is_exactly_zero_while_score_model_equals_teacher(weight):
    torch.manual_seed(0)
    net = EDMPrecond(
        8, 1, model_type="SongUNet", model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]
    )
    for parameter in net.parameters():  # fresh networks end in near-zero layers, which would make any gradient small
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    objective = DiffInstruct(EdmTeacher(net), DiffInstructOptions(weight=weight))
    fake = torch.randn([16, 1, 8, 8])
    gradient, _ = gradient_at(objective, fake)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    next(objective.score_model.parameters()).data.add_(0.01)
    gradient, _ = gradient_at(objective, fake)
    assert gradient.abs().max() > 0


def test_gradient_equals_the_closed_form_for_gaussians():
    teacher = GaussianTeacher(1.0, 0.5, PIXEL)
    objective = DiffInstruct(teacher)
    objective.score_model.mean.data.fill_(-0.3)
    objective.score_model.log_deviation.data.fill_(math.log(0.8))
    fake = 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, terms = gradient_at(objective, fake, seed=3)
    rng = torch.Generator().manual_seed(3)
    sigma = terms.sigma.reshape(-1, 1, 1, 1)
    torch.randn([64, 1, 1, 1], generator=rng)  # the draw of sigma
    noisy = fake + sigma * torch.randn([64, 1, 1, 1], generator=rng)
    score_g = (-0.3 - noisy) / (0.8**2 + sigma**2)
    score_d = (1.0 - noisy) / (0.5**2 + sigma**2)
    torch.testing.assert_close(gradient, sigma**2 * (score_g - score_d), rtol=1e-4, atol=1e-6)  # eq. 3.2, w = sigma^2


def test_dmd_weight_divides_by_the_teachers_residual():
    teacher = GaussianTeacher(1.0, 0.5, ImageSpec(1, 4))
    plain, dmd = (DiffInstruct(teacher, DiffInstructOptions(weight=weight)) for weight in ("sigma2", "dmd"))
    for objective in (plain, dmd):
        objective.score_model.mean.data.fill_(0.0)
    fake = torch.randn([8, 1, 4, 4])
    gradient, terms = gradient_at(plain, fake)
    normalised, _ = gradient_at(dmd, fake)
    residual = gradient.abs().mean([1, 2, 3]) / terms.logs["ratio"]
    torch.testing.assert_close(normalised, gradient / residual.reshape(-1, 1, 1, 1))


def test_sds_is_diff_instruct_of_a_dirac():
    """Cor. 3.4: the score model of a generator without spread returns that generator's image."""
    teacher = GaussianTeacher(1.0, 0.5, PIXEL)
    image = torch.full([32, 1, 1, 1], 0.2)
    diff_instruct = DiffInstruct(teacher)
    diff_instruct.score_model = GaussianTeacher(0.2, 1e-12, PIXEL)
    expected, _ = gradient_at(Sds(teacher), image, seed=5)
    found, _ = gradient_at(diff_instruct, image, seed=5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_adversarial_gradient_is_the_difference_of_scores_without_noise():
    """Cor. 3.5: with the optimal discriminator h, grad log((1 - h) / h) = s_g - s_d, which is (D_g - D_d) / sigma^2 at 0."""
    x = torch.linspace(-2, 3, 11, dtype=torch.float64).requires_grad_()
    log_p = lambda mean, deviation: -0.5 * ((x - mean) / deviation) ** 2 - math.log(deviation)  # noqa: E731
    h = torch.sigmoid(log_p(1.0, 0.5) - log_p(-0.3, 0.8))
    (adversarial,) = torch.autograd.grad(((1 - h) / h).log().sum(), x)
    sigma = 1e-3
    denoise = lambda mean, s: (s**2 * x + sigma**2 * mean) / (s**2 + sigma**2)  # noqa: E731
    scores = (denoise(-0.3, 0.8) - denoise(1.0, 0.5)).detach() / sigma**2
    torch.testing.assert_close(adversarial, scores, rtol=1e-4, atol=1e-4)


def test_running_mean_of_squared_score_difference_integrates_to_the_kl_divergence():
    """Truth 4: KL(N(0, 1) || N(m, 1)) = m^2 / 2, less what lies outside the bands of sigma."""
    teacher = GaussianTeacher(1.5, 1.0, PIXEL)
    objective = DiffInstruct(teacher, DiffInstructOptions(sigma_std=2.0))
    objective.score_model.mean.data.fill_(0.0)
    health = Health()
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        fake = torch.randn([1000, 1, 1, 1], generator=rng)
        health.add(objective.generator_terms(fake, torch.zeros([1000, 0]), rng))
    assert health.remaining_nats() == pytest.approx(1.5**2 / 2, rel=0.1)


@pytest.mark.parametrize(("weight", "glr"), [("sigma2", 0.01), ("dmd", 0.01)])
def test_gaussian_generator_reaches_its_teacher(weight, glr):
    """Truth 1: x = a z + b refined against N(1, 0.5^2) ends at that mean and deviation."""
    spec = ImageSpec(channels=1, resolution=4)
    generator = AffineGenerator(scale=0.8, shift=-0.5, spec=spec)
    objective = DiffInstruct(GaussianTeacher(1.0, 0.5, spec), DiffInstructOptions(weight=weight))
    sizes = {"total_images": 64 * 600, "batch": 64, "batch_gpu": 64, "tick_images": 64 * 600, "warmup_images": 0}
    options = RefineOptions(pool_images=0, glr=glr, score_lr=0.03, beta1=0.0, beta2=0.99, **sizes)
    *_, last = refine(generator, objective, options)
    assert float(last.average.shift) == pytest.approx(1.0, abs=0.05)
    assert abs(float(last.average.scale)) == pytest.approx(0.5, abs=0.05)


def test_sds_seeks_the_mode():
    generator = AffineGenerator(scale=0.8, shift=-0.5, spec=PIXEL)
    options = RefineOptions(
        pool_images=0, total_images=64 * 600, batch=64, batch_gpu=64, glr=1e-2, tick_images=64 * 600
    )
    *_, last = refine(generator, Sds(GaussianTeacher(1.0, 0.5, PIXEL)), options)
    assert float(last.average.shift) == pytest.approx(1.0, abs=0.03)
    assert float(last.average.scale) == pytest.approx(0.0, abs=0.03)
