"""The mathematics of the objectives: closed forms of their gradients, exact zeros, fixed points."""

import math

import pytest
import torch
from toys import SingleImage, gradient_at, no_labels, rng, small_unet

from gan_refine.config import RefineOptions
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, Loss
from gan_refine.objectives import OBJECTIVES, ScoreModelObjective, build_objective
from gan_refine.refine import Health, refine
from gan_refine.teachers import EdmTeacher, GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)
IMAGE = ImageSpec(channels=1, resolution=4)
WITH_SCORE_MODEL = [name for name, cls in OBJECTIVES.items() if issubclass(cls, ScoreModelObjective)]
FAKE, DATA = (-0.3, 0.8), (1.0, 0.5)  # mean and deviation of the generator's images, and of the teacher's


def unet_teacher() -> EdmTeacher:
    return EdmTeacher(small_unet(8, channels=3, shift=0.1, attn_resolutions=[4]))


def gaussian_pair(spec: str) -> ScoreModelObjective:
    """An objective with teacher N(1, 0.5^2) whose score model is exact for fakes of N(-0.3, 0.8^2)."""
    objective = build_objective(spec, GaussianTeacher(*DATA, PIXEL))
    assert isinstance(objective, ScoreModelObjective)
    objective.score_model.mean.data.fill_(FAKE[0])
    objective.score_model.log_deviation.data.fill_(math.log(FAKE[1]))
    return objective


class Exact:
    """x_t with the noise that `gradient_at` drew, D(x_t) = slope x_t + offset of a Gaussian, and its score, in float64."""

    def __init__(self, objective: ScoreModelObjective, fake: torch.Tensor, loss: Loss, seed: int) -> None:
        noise = rng(seed)
        objective.law.sample(len(fake), noise)
        self.sigma = loss.sigma.double().reshape(-1, 1, 1, 1)
        self.noisy = fake.double() + self.sigma * torch.randn(fake.shape, generator=noise).double()

    def slope(self, deviation: float) -> torch.Tensor:
        return deviation**2 / (deviation**2 + self.sigma**2)

    def denoised(self, mean: float, deviation: float) -> torch.Tensor:
        return self.slope(deviation) * self.noisy + (1 - self.slope(deviation)) * mean

    def score(self, mean: float, deviation: float) -> torch.Tensor:
        return (mean - self.noisy) / (deviation**2 + self.sigma**2)


@pytest.mark.parametrize("spec", [*WITH_SCORE_MODEL, "diff-instruct,weighting=dmd", "diff-instruct,weighting=score"])
def test_gradient_is_exactly_zero_while_score_model_equals_teacher(spec):
    objective = build_objective(spec, unet_teacher())
    fake = torch.randn([16, 3, 8, 8])
    gradient, _ = gradient_at(objective, fake)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    used = objective.score_model if objective.average is None else objective.average.module
    next(used.parameters()).data.add_(0.01)
    gradient, _ = gradient_at(objective, fake)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("weighting, rtol, atol", [("sigma2", 1e-4, 1e-6), ("score", 2e-3, 2e-3)])
def test_diff_instruct_is_the_weighted_difference_of_scores(weighting, rtol, atol):
    """Eq. 3.2 of arXiv:2305.18455 with w = sigma^2 and w = 1."""
    objective, fake = gaussian_pair(f"diff-instruct,weighting={weighting}"), 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, loss = gradient_at(objective, fake, seed=3)
    exact = Exact(objective, fake, loss, seed=3)
    w = exact.sigma**2 if weighting == "sigma2" else 1.0
    expected = w * (exact.score(*FAKE) - exact.score(*DATA))
    torch.testing.assert_close(gradient.double(), expected, rtol=rtol, atol=atol)


def test_dmd_weighting_divides_by_the_teachers_residual():
    """Eq. 8 of arXiv:2311.18828: a mean over the pixel values of |x - D_d| for each sample."""
    plain, dmd = (
        build_objective(f"diff-instruct,weighting={weighting}", GaussianTeacher(*DATA, IMAGE))
        for weighting in ("sigma2", "dmd")
    )
    for objective in (plain, dmd):
        objective.score_model.mean.data.fill_(0.0)
    fake = torch.randn([8, 1, 4, 4])
    gradient, loss = gradient_at(plain, fake)
    normalized, _ = gradient_at(dmd, fake)
    residual = gradient.abs().mean([1, 2, 3]) / loss.logs["ratio"]
    torch.testing.assert_close(normalized, gradient / residual.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_gradient_equals_the_closed_form_for_gaussians(alpha):
    """d/dx of (D_d - D_g) [(D_d - x) - alpha (D_d - D_g)] / |x - D_d|, through x_t = x + sigma n, with a constant divisor."""
    objective = gaussian_pair(f"sid,alpha={alpha},sigma=lognormal")
    fake = 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, found = gradient_at(objective, fake, seed=4)
    exact = Exact(objective, fake, found, seed=4)
    d_d, d_g, x = exact.denoised(*DATA), exact.denoised(*FAKE), fake.double()
    gap, slope = d_d - d_g, exact.slope(0.5) - exact.slope(0.8)
    through = slope * (d_d - x - alpha * gap) + gap * (exact.slope(0.5) - 1 - alpha * slope)
    torch.testing.assert_close(gradient.double(), through / (x - d_d).abs(), rtol=1e-3, atol=1e-4)
    loss = (gap * (d_d - x - alpha * gap) / (x - d_d).abs()).flatten()
    torch.testing.assert_close(found.per_sample.double(), loss, rtol=1e-3, atol=1e-4)


def test_score_implicit_matching_differentiates_its_divisor():
    """d/dx of (D_d - D_g) (D_g - x) / r with r = sqrt(|D_d - D_g|^2 + c^2)."""
    objective, fake = gaussian_pair("sim,huber=0.3,sigma=lognormal"), 0.8 * torch.randn([64, 1, 1, 1]) - 0.3
    gradient, loss = gradient_at(objective, fake, seed=5)
    exact = Exact(objective, fake, loss, seed=5)
    d_d, d_g, x = exact.denoised(*DATA), exact.denoised(*FAKE), fake.double()
    gap, slope = d_d - d_g, exact.slope(0.5) - exact.slope(0.8)
    r = (gap**2 + 0.3**2).sqrt()
    expected = (slope * (d_g - x) + gap * (exact.slope(0.8) - 1)) / r - gap**2 * slope * (d_g - x) / r**3
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-4)


def test_sim_with_a_wide_pseudo_huber_distance_is_sid_with_alpha_1_up_to_the_divisor():
    wide = gaussian_pair("sim,huber=1000,sigma=lognormal")
    sid = gaussian_pair("sid,alpha=1,sigma=lognormal")
    fake = torch.randn([32, 1, 1, 1])
    found, loss = gradient_at(wide, fake, seed=6)
    expected, _ = gradient_at(sid, fake, seed=6)
    residual = (fake.double() - Exact(sid, fake, loss, seed=6).denoised(*DATA)).abs()
    torch.testing.assert_close(1000 * found.double(), expected * residual, rtol=1e-3, atol=1e-4)


def test_adversarial_gradient_is_the_difference_of_scores_without_noise():
    """Cor. 3.5: with the optimal discriminator h, grad log((1 - h) / h) = s_g - s_d, which is (D_g - D_d) / sigma^2 at 0."""
    x = torch.linspace(-2, 3, 11, dtype=torch.float64).requires_grad_()
    log_p = lambda mean, deviation: -0.5 * ((x - mean) / deviation) ** 2 - math.log(deviation)  # noqa: E731
    h = torch.sigmoid(log_p(*DATA) - log_p(*FAKE))
    (adversarial,) = torch.autograd.grad(((1 - h) / h).log().sum(), x)
    sigma = 1e-3
    denoise = lambda mean, s: (s**2 * x + sigma**2 * mean) / (s**2 + sigma**2)  # noqa: E731
    scores = (denoise(*FAKE) - denoise(*DATA)).detach() / sigma**2
    torch.testing.assert_close(adversarial, scores, rtol=1e-4, atol=1e-4)


def test_mean_squared_score_difference_integrates_to_the_kl_divergence():
    """KL(N(0, 1) || N(m, 1)) = m^2 / 2, except for what lies outside the bands of sigma."""
    objective = build_objective("diff-instruct,sigma_std=2", GaussianTeacher(1.5, 1.0, PIXEL))
    objective.score_model.mean.data.fill_(0.0)
    health, noise = Health(), rng()
    for _ in range(20):
        fake = torch.randn([1000, 1, 1, 1], generator=noise)
        health.add(objective.generator_loss(fake, no_labels(1000), noise))
    assert health.remaining_nats() == pytest.approx(1.5**2 / 2, rel=0.1)


@pytest.mark.parametrize("name", WITH_SCORE_MODEL)
def test_each_step_gives_gradients_to_its_own_network_alone(name):
    objective = build_objective(name, unet_teacher())
    next(objective.score_model.parameters()).data.add_(0.01)
    fake, noise = torch.randn([4, 3, 8, 8], requires_grad=True), rng()
    objective.generator_loss(fake, no_labels(4), noise).per_sample.sum().backward()
    assert fake.grad is not None
    assert all(parameter.grad is None for parameter in objective.parameters())
    objective.auxiliary_loss(fake.detach(), no_labels(4), noise).per_sample.sum().backward()
    assert all(parameter.grad is not None for parameter in objective.auxiliary_groups()[0].parameters)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


@pytest.mark.parametrize(
    "spec",
    [
        *("diff-instruct", "diff-instruct,weighting=dmd", "diff-instruct,weighting=score", "diff-instruct-dmd"),
        *("sid", "sid,alpha=1", "sim"),
    ],
)
def test_gaussian_generator_reaches_its_teacher(spec):
    """x = a z + b refined against N(1, 0.5^2) ends at that mean and deviation."""
    generator = AffineGenerator(scale=0.8, shift=-0.5, spec=IMAGE)
    objective = build_objective(spec, GaussianTeacher(*DATA, IMAGE))
    sizes = {"total_images": 64 * 200, "batch": 64, "batch_gpu": 64, "tick_images": 64 * 200, "warmup_images": 0}
    options = RefineOptions(glr=0.03, score_lr=0.1, beta1=0.0, beta2=0.99, **sizes)
    *_, last = refine(generator, objective, options)
    assert float(last.average.shift) == pytest.approx(1.0, abs=0.05)
    assert abs(float(last.average.scale)) == pytest.approx(0.5, abs=0.05)


def test_sds_seeks_the_mode():
    generator = AffineGenerator(scale=0.8, shift=-0.5, spec=PIXEL)
    sizes = {"total_images": 64 * 600, "batch": 64, "batch_gpu": 64, "tick_images": 64 * 600}
    *_, last = refine(
        generator, build_objective("sds", GaussianTeacher(*DATA, PIXEL)), RefineOptions(glr=1e-2, **sizes)
    )
    assert float(last.average.shift) == pytest.approx(1.0, abs=0.03)
    assert float(last.average.scale) == pytest.approx(0.0, abs=0.03)


def test_score_distillation_takes_a_single_image_to_the_mode_of_a_gaussian():
    image = SingleImage(torch.full([1, 3, 4, 4], -0.4))
    options = RefineOptions(total_images=3200, batch=16, batch_gpu=16, warmup_images=0, glr=0.02)
    for _ in refine(image, build_objective("sds", GaussianTeacher(0.2, 0.5, image.spec)), options):
        pass
    torch.testing.assert_close(image.pixels.detach(), torch.full([1, 3, 4, 4], 0.2), atol=0.08, rtol=0)


def test_with_the_exact_score_model_of_a_single_image_diff_instruct_is_score_distillation():
    """Cor. 3.4 of arXiv:2305.18455: that score model returns the image, D_g = x."""
    gradients = []
    for spec in ("sds", "diff-instruct"):
        image = SingleImage(torch.full([1, 3, 4, 4], -0.4))
        objective = build_objective(spec, GaussianTeacher(0.2, 0.5, image.spec))
        if spec == "diff-instruct":
            objective.score_model = GaussianTeacher(-0.4, 1e-12, image.spec)
        latents = image.draw(8, rng())
        objective.generator_loss(image(latents), latents.labels, rng(1)).per_sample.sum().backward()
        gradients.append(image.pixels.grad)
    assert gradients[0].abs().min() > 0
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
