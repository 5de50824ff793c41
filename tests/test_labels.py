"""--labels and --noise-mode: what is drawn, by whom, and what is said about pairs that differ in classes."""

import copy
import json
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from toys import rng, small_stylegan2, small_unet

import run_refine
from gan_refine.cli import cli
from gan_refine.cli.options import spell_out
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.evaluation.images import teacher_images
from gan_refine.evaluation.samples import SamplingOptions, Teacher, cache_key
from gan_refine.generators import AnyGenerator, BridgeOptions, LatentOptions, OneStep, StyleGan2, bridge
from gan_refine.generators.w_space import mean_w
from gan_refine.interfaces import ImageSpec
from gan_refine.labels import draw_labels, parse_frequencies
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.objectives import DiGan, DiGanOptions, GanFile
from gan_refine.pickles import write_networks
from gan_refine.pixels import from_uint8
from gan_refine.teachers import GaussianTeacher
from runs import SMALL, assert_same_run

THREE = ImageSpec(1, 16, 3)
WIDTHS = {"channel_base": 64, "channel_max": 8}
PRIOR = (0.25, 0.0, 0.75)


def assert_follows(labels: torch.Tensor, prior: tuple[float, ...]) -> None:
    """One-hot, each class within five deviations of its frequency; one of frequency 0 never."""
    n = len(labels)
    assert torch.equal(labels.sum(1), torch.ones(n)) and torch.equal(labels.max(1).values, torch.ones(n))
    for count, share in zip(labels.sum(0).tolist(), prior, strict=True):
        assert abs(count - n * share) <= 5 * (n * share * (1 - share)) ** 0.5


def test_labels_follow_their_frequencies():
    for prior in (PRIOR, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.25, 0.25)):
        labels = draw_labels(4000, 3, rng(), prior)
        assert_follows(labels, prior)
        assert torch.equal(labels, draw_labels(4000, 3, rng(), prior))
    assert_follows(draw_labels(4000, 3, rng()), (1 / 3, 1 / 3, 1 / 3))
    assert draw_labels(5, 0, rng()).shape == (5, 0)


def test_uniform_labels_are_those_that_runs_have_always_drawn():
    drawn = torch.randint(3, [100], generator=rng())
    assert torch.equal(draw_labels(100, 3, rng()).argmax(1), drawn)


def test_what_is_parsed():
    assert parse_frequencies("uniform", THREE) is None
    assert parse_frequencies("uniform", ImageSpec(1, 16)) is None
    assert parse_frequencies("1, 0,3e0", THREE) == PRIOR
    assert parse_frequencies("2,2,2", THREE) is None, "equal ones are uniform"


@pytest.mark.parametrize(
    "text, spec, message",
    [
        ("1,2", THREE, "has 2 frequencies, but the generator makes 16x16 grey, 3 classes; give one for each class"),
        ("1,2,3,4", THREE, "has 4 frequencies"),
        ("1,1", THREE, "has 2 frequencies"),
        ("1,-2,3", THREE, "is not allowed at '-2'; write uniform, numbers of at least 0"),
        ("1,nan,3", THREE, "at 'nan'"),
        ("1,inf,3", THREE, "at 'inf'"),
        ("1,,3", THREE, "at ''"),
        ("even", THREE, "at 'even'"),
        ("", THREE, "at ''"),
        ("0,0,0", THREE, "sums to 0; give at least one class a frequency above 0"),
        ("1e308,1e308,1e308", THREE, "sums to inf"),
        ("1,2,3", ImageSpec(1, 16), "makes 16x16 grey images without classes; leave it out"),
        (",".join(["1"] * 1000), THREE, "--labels=1,1,1,1"),
    ],
)
def test_bad_frequencies_are_one_line(text, spec, message):
    with pytest.raises(OptionError) as raised:
        parse_frequencies(text, spec)
    assert message in str(raised.value) and len(str(raised.value)) < 250 and "\n" not in str(raised.value)


def test_a_file_is_spelt_out(tmp_path):
    path = tmp_path / "prior.json"
    path.write_text("[0.1, 2, 3e-7]")
    assert spell_out(str(path)) == "0.1,2,3e-07"
    assert spell_out("0.1,2") == "0.1,2"


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", '["1"]', "[true, 1]", "[null]", "[[1]]", "\x80"])
def test_files_that_hold_no_list_of_numbers(text, tmp_path):
    path = tmp_path / "prior.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        FileFormatError, match=r"--labels=.*prior\.json (cannot be read as JSON|holds no list of numbers)"
    ):
        spell_out(str(path))
    with pytest.raises(FileFormatError, match="cannot be read as JSON"):
        spell_out(str(tmp_path / "missing.json"))


class Foreign(nn.Module):
    z_dim, c_dim = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones([]))

    def forward(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float = 1) -> torch.Tensor:
        return (self.scale * (z[:, :1, None, None] + c[:, :1, None, None])).repeat(1, 1, 16, 16)


def stylegan(classes: int = 3) -> StyleGan2:
    return small_stylegan2(16, classes, 1.0)


def trusted() -> AnyGenerator:
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        file.write(pickle.dumps({"G_ema": Foreign()}))
        file.flush()
        return AnyGenerator.load(Path(file.name))


FAMILIES = {
    "stylegan2": stylegan,
    "one-step": lambda: OneStep(small_unet(16, classes=3), 2.5),
    "trusted": trusted,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_generators_draw_so_and_their_copies_too(family):
    generator = FAMILIES[family]()
    generator.set_latent_options("1,0,3", "random")
    plain = FAMILIES[family]().draw(1000, rng())
    shown = [generator, copy.deepcopy(generator), bridge(generator, ImageSpec(1, 8, 3), BridgeOptions())]
    shown += [] if family == "one-step" else [generator.truncated(0.5)]
    for drawn in (other.draw(1000, rng()) for other in shown):
        assert_follows(drawn.labels, PRIOR)
        assert torch.equal(drawn.z, plain.z), "the prior leaves z as it is"
    assert_follows(plain.labels, (1 / 3, 1 / 3, 1 / 3))
    assert generator(generator.draw(2, rng())).shape == (2, 1, 16, 16)


def test_constant_noise_leaves_latents_as_they_are_and_fixes_images():
    generator = stylegan()
    random = generator.draw(4, rng())
    generator.set_latent_options("uniform", "const")
    constant = generator.draw(4, rng())
    assert constant.noise_seed is None and random.noise_seed is not None
    assert torch.equal(constant.z, random.z) and torch.equal(constant.labels, random.labels)
    expected = generator.net(constant.z, constant.labels, noise_mode="const", force_fp32=True).clamp(-1, 1)
    assert torch.equal(generator(constant), expected)
    assert not torch.equal(generator(random), expected)
    assert copy.deepcopy(generator).draw(4, rng()).noise_seed is None


@pytest.mark.parametrize("family", ["one-step", "trusted"])
def test_constant_noise_is_for_stylegans(family):
    with pytest.raises(OptionError, match="--noise-mode=const is for generators with noise inputs"):
        FAMILIES[family]().set_latent_options("uniform", "const")


def test_the_mean_w_is_that_of_the_prior():
    generator = stylegan()
    generator.latent_options = LatentOptions((0.0, 1.0, 0.0))
    z = torch.randn([40_000, 8], generator=rng(5))
    w = generator.net.mapping(z, torch.eye(3)[1].expand(len(z), 3))[:, 0].detach()
    found = mean_w(generator.net.mapping, generator.draw)
    error = ((found - w.mean(0)) / w.std(0)).abs().max()
    generator.latent_options = LatentOptions()
    uniform = mean_w(generator.net.mapping, generator.draw)
    assert float(error) < 5 * (1 / 16_384 + 1 / 40_000) ** 0.5
    assert float(((uniform - w.mean(0)) / w.std(0)).abs().max()) > 0.1, "the classes differ"


class Listening(GaussianTeacher):
    """Remembers the labels of each whole sample."""

    def __init__(self, classes: int = 3, resolution: int = 4) -> None:
        super().__init__(0.1, 0.3, ImageSpec(1, resolution, classes))
        self.heard: list[torch.Tensor] = []

    def forward(self, noisy, sigma, labels):
        self.heard.append(labels)
        return super().forward(noisy, sigma, labels)


def test_samples_of_the_teacher_follow_the_prior():
    teacher = Listening()
    assert sum(len(images) for _, images in teacher_images(teacher, 1000, 1, 0, lambda n: None, PRIOR)) == 1000
    assert_follows(torch.cat(teacher.heard), PRIOR)
    unconditional = Listening(classes=0)
    list(teacher_images(unconditional, 10, 1, 0, lambda n: None, PRIOR))
    assert unconditional.heard[0].shape == (10, 0), "a teacher without classes is told none"


def test_references_of_other_priors_are_other_files(tmp_path):
    path = tmp_path / "teacher.pkl"
    path.write_bytes(b"weights")
    key = lambda classes, prior: cache_key(  # noqa: E731
        Teacher(path, Listening(classes), prior), SamplingOptions(20, 2)
    )
    assert key(3, PRIOR) != key(3, None) != key(3, (0.5, 0.25, 0.25))
    assert key(0, PRIOR) == key(0, None), "no classes, no difference"


def test_the_samples_that_a_discriminator_learns_from_follow_the_frequencies_and_keep_their_own_classes():
    options = DiGanOptions(discriminator="fresh", samples=500, steps=2, diff_instruct=0)
    objective = DiGan(Listening(resolution=8), options, GanFile(frequencies=PRIOR))
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    objective.discriminator.register_forward_pre_hook(lambda module, given: shown.append(given))
    fake, labels = torch.zeros([8, 1, 8, 8]), torch.eye(3)[[1] * 8]
    objective.auxiliary_loss(fake, labels, rng())
    assert_follows(objective.sample_labels, PRIOR)
    (real, real_labels), (_, fake_labels) = shown
    known = from_uint8(objective.samples)
    matches = [(known == image).flatten(1).all(1).nonzero()[0, 0] for image in real.detach()]
    assert torch.equal(real_labels, objective.sample_labels[torch.stack(matches)])
    assert torch.equal(fake_labels, labels)


def write(folder: Path, gan_classes: int, teacher_classes: int) -> list[str]:
    torch.manual_seed(0)
    discriminator = Discriminator(gan_classes, 16, 1, architecture="orig", **WIDTHS)
    networks = {"G": stylegan(gan_classes).net, "D": discriminator, "G_ema": stylegan(gan_classes).net}
    write_networks(folder / "gan.pkl", {**networks, "training_set_kwargs": None, "augment_pipe": None})
    write_networks(folder / "teacher.pkl", {"ema": small_unet(16, classes=teacher_classes, channel_mult=[1])})
    return [f"--gan={folder / 'gan.pkl'}", f"--teacher={folder / 'teacher.pkl'}"]


def run(*arguments: object):
    return CliRunner().invoke(run_refine.cli, [str(argument) for argument in arguments])


QUICK = [*SMALL, "--kimg=0.032", "--metrics=none", "--snap=1"]


@pytest.mark.parametrize("noise", ["random", "const"])
def test_a_run_draws_its_classes_so_and_needs_the_file_no_more(noise, tmp_path):
    pair = write(tmp_path, 3, 3)
    prior = tmp_path / "prior.json"
    prior.write_text("[1, 0, 3]")
    arguments = [*pair, *QUICK, f"--noise-mode={noise}", "--objective=diff-instruct"]
    result = run(*arguments, f"--labels={prior}", f"--outdir={tmp_path / 'file'}")
    assert result.exception is None, result.exception
    assert run(*arguments, "--labels=1,0,3", f"--outdir={tmp_path / 'text'}").exception is None
    folders = [tmp_path / name / "00000-tiny" for name in ("file", "text")]
    assert_same_run(*folders)
    options = json.loads((folders[0] / "options.json").read_text())
    assert (options["labels"], options["noise_mode"]) == ("1,0,3", noise)
    assert "The teacher is unconditional" not in (folders[0] / "log.txt").read_text()
    prior.unlink()
    assert run(f"--resume={folders[0]}").exception is None
    refused = run(f"--resume={folders[0]}", "--labels=1,1,1")
    assert isinstance(refused.exception, OptionError) and "--labels=1,0,3 (got --labels=1,1,1)" in str(
        refused.exception
    )


@pytest.mark.parametrize(
    "labels, said", [("uniform", "drawn uniformly"), ("1,0,3", "with the frequencies of --labels")]
)
def test_an_unconditional_teacher_of_a_conditional_gan_is_announced_in_one_line(labels, said, tmp_path):
    pair = write(tmp_path, 3, 0)
    result = run(*pair, *QUICK, f"--labels={labels}", f"--outdir={tmp_path}")
    assert result.exception is None, result.exception
    lines = (tmp_path / "00000-tiny" / "log.txt").read_text().splitlines()
    (line,) = [line for line in lines if "The teacher is unconditional" in line]
    assert "the mixture of the GAN's 3 classes" in line and said in line
    assert StyleGan2.load(tmp_path / "00000-tiny" / "network-refined-best.pkl").spec.num_classes == 3


REFUSED = [
    (0, 3, [], MismatchError, "needs the class of each, but the GAN makes 16x16 grey images without classes"),
    (3, 2, [], MismatchError, "3 classes but the teacher knows 2 classes; choose a teacher of the same classes"),
    (0, 0, ["--labels=1,2,3"], OptionError, "images without classes; leave it out"),
    (3, 3, ["--labels=1,2"], OptionError, "give one for each class"),
    (3, 3, ["--labels=1,2,-3"], OptionError, "is not allowed at '-3'"),
    (3, 3, ["--labels=0,0,0"], OptionError, "sums to 0"),
    (3, 3, ["--labels=/nowhere/x.json"], FileFormatError, "cannot be read as JSON"),
]


@pytest.mark.parametrize("gan, teacher, arguments, kind, message", REFUSED)
def test_pairs_and_priors_that_do_not_fit_are_refused_before_anything_is_written(
    gan, teacher, arguments, kind, message, tmp_path
):
    pair = write(tmp_path, gan, teacher)
    result = run(*pair, *QUICK, *arguments, f"--outdir={tmp_path / 'runs'}")
    assert type(result.exception) is kind and message in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_evaluate_measures_under_a_prior(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    gan, teacher = write(tmp_path, 3, 3)
    found = []
    for labels, others in [("uniform", []), ("0,0,1", []), ("0,0,1", [teacher, "--teacher-steps=2"])]:
        own = [
            gan,
            f"--labels={labels}",
            "--detector=fashion16",
            "--images=32",
            "--fid-seeds=1",
            "--device=cpu",
            *others,
        ]
        result = CliRunner().invoke(cli, ["evaluate", *own])
        assert result.exception is None, result.exception
        found.append(json.loads(result.stdout.splitlines()[0]))
        assert found[-1]["labels"] == labels and found[-1]["noise_mode"] == "random"
    first, second, third = (next(iter(line["results"].values())) for line in found)
    assert first != second != third
    (cached,) = (tmp_path / "cache" / "samples").iterdir()
    file = Teacher(tmp_path / "teacher.pkl", Listening(3, 16), (0.0, 0.0, 1.0))
    options = SamplingOptions(images=32, steps=2)
    assert cached.stem == cache_key(file, options)
    assert cached.stem != cache_key(replace(file, frequencies=None), options)
    (tmp_path / "two").mkdir()
    other = write(tmp_path / "two", 3, 2)[1]
    result = CliRunner().invoke(cli, ["evaluate", gan, other, "--labels=0,0,1", "--images=32"])
    assert isinstance(result.exception, MismatchError) and "knows 2 classes" in str(result.exception)
