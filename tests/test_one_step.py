"""One-step generators: a teacher's U-Net called once, from --gan=one-step:TEACHER to a file that opens as both."""

import io
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from toys import rng, small_unet

import run_refine
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.evaluation import Teacher
from gan_refine.generators import OneStep, OneStepOptions, one_step_of
from gan_refine.pickles import build_teacher, read_networks, write_networks
from gan_refine.run.networks import open_gan
from gan_refine.teachers import EdmTeacher, load_edm


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[int, Path]:
    """Tiny 8x8 teachers by their number of classes."""
    folder = tmp_path_factory.mktemp("teachers")
    paths = {}
    for classes in (0, 3):
        paths[classes] = folder / f"teacher{classes}.pkl"
        write_networks(paths[classes], {"ema": small_unet(8, classes=classes, attn_resolutions=[4])})
    return paths


def distil(teacher: Path, options: OneStepOptions) -> OneStep:
    return one_step_of(build_teacher(read_networks(teacher)), teacher.name, options)


def latents_of(generator: OneStep, n: int = 4):
    return generator.draw(n, rng())


@pytest.mark.parametrize("classes", [0, 3])
def test_an_image_is_the_teachers_estimate_at_the_fixed_level(teachers, classes):
    generator = distil(teachers[classes], OneStepOptions(sigma=1.7))
    assert generator.spec.num_classes == classes
    latents = latents_of(generator, 16)
    assert latents.z.shape == (16, 1, 8, 8)
    assert latents.labels.shape == (16, classes)
    assert bool((latents.labels.sum(1) == (classes > 0)).all())
    level = torch.full([16, 1, 1, 1], 1.7)
    expected = load_edm(teachers[classes])(1.7 * latents.z, level, latents.labels).clamp(-1, 1)
    torch.testing.assert_close(generator(latents), expected)
    generator(latents).sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize("classes", [0, 3])
def test_an_exported_file_opens_as_generator_and_as_teacher(teachers, classes, tmp_path):
    generator = distil(teachers[classes], OneStepOptions(sigma=1.7))
    next(generator.parameters()).data.add_(0.1)
    path = tmp_path / "refined.pkl"
    generator.export(path)
    again = OneStep.load(path)
    assert again.sigma == 1.7
    assert torch.equal(again(latents_of(again)), generator(latents_of(generator)))
    gan = open_gan(str(path))
    assert gan.generator.family == "one-step"
    assert torch.equal(gan.load()(latents_of(again)), again(latents_of(again)))
    gan.generator.write_original(tmp_path / "copy.pkl")
    assert torch.equal(OneStep.load(tmp_path / "copy.pkl")(latents_of(again)), again(latents_of(again)))
    x, level, labels = torch.randn([2, 1, 8, 8]), torch.ones([2, 1, 1, 1]), torch.eye(3)[:2, :classes]
    torch.testing.assert_close(load_edm(path)(x, level, labels), generator.net(x, level, labels))


class PublishedLoader(pickle.Unpickler):
    """As the published tools do: every persistent object's embedded source is run as a module of its own."""

    modules: dict[str, types.ModuleType] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj"):
            return self.rebuild
        return super().find_class(module, name)

    def rebuild(self, meta: dict) -> object:
        source = meta["module_src"]
        if source not in self.modules:
            module = types.ModuleType(f"embedded_{len(self.modules)}")
            sys.modules[module.__name__] = module
            exec(source, module.__dict__)
            self.modules[source] = module
        cls = getattr(self.modules[source], meta["class_name"])
        obj = cls.__new__(cls)
        obj.__setstate__(meta["state"])
        return obj


def test_an_exported_file_opens_as_edm_opens_its_own(teachers, tmp_path):
    generator = distil(teachers[3], OneStepOptions())
    generator.export(tmp_path / "refined.pkl")
    net = PublishedLoader(io.BytesIO((tmp_path / "refined.pkl").read_bytes())).load()["ema"]
    assert type(net).__module__.startswith("embedded_")
    assert (net.img_channels, net.img_resolution, net.label_dim) == (1, 8, 3)
    latents = latents_of(generator)
    sigma = net.round_sigma(torch.as_tensor(2.5))
    with torch.no_grad():
        found = net(sigma * latents.z, sigma, latents.labels).clamp(-1, 1)
        torch.testing.assert_close(found, generator(latents))


def command(monkeypatch, program, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    return run_command(program)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_command_distils_a_teacher(teachers, classes, tmp_path, monkeypatch):
    arguments = [f"--gan=one-step:{teachers[classes]},sigma=1.7", f"--teacher={teachers[classes]}", "--metrics=none"]
    arguments += ["--objective=sid", "--kimg=0.032", "--batch=8", "--tick=0.016", "--warmup-kimg=0.008"]
    arguments += ["--no-report", "--glr=0.01", "--device=cpu", f"--outdir={tmp_path}"]
    assert command(monkeypatch, run_refine.cli, *arguments) == 0
    folder = tmp_path / f"00000-one-step-teacher{classes}-sid-batch8"
    refined = OneStep.load(folder / "network-refined-best.pkl")
    original = distil(teachers[classes], OneStepOptions(sigma=1.7))
    assert refined.sigma == 1.7
    assert not torch.equal(refined(latents_of(refined)), original(latents_of(original)))


def test_a_u_net_has_a_lower_default_rate_named_or_from_a_file(teachers, tmp_path, monkeypatch):
    distil(teachers[0], OneStepOptions()).export(tmp_path / "one.pkl")
    short = [f"--teacher={teachers[0]}", "--metrics=none", "--kimg=0.016", "--batch=8", "--warmup-kimg=0.008"]
    short += ["--no-report", "--device=cpu", "--objective=di-gan,imagenet=0,samples=64,steps=2,window=8"]
    for number, gan in enumerate((f"one-step:{teachers[0]}", tmp_path / "one.pkl")):
        assert command(monkeypatch, run_refine.cli, *short, f"--gan={gan}", f"--outdir={tmp_path / str(number)}") == 0
        (folder,) = (tmp_path / str(number)).iterdir()
        assert json.loads((folder / "options.json").read_text())["refine"]["glr"] == OneStep.max_default_lr == 1e-4
        assert "no discriminator for the adversarial loss" in (folder / "log.txt").read_text()


def test_evaluate_measures_one_step_generators(tmp_path, monkeypatch, capsys):
    gan = open_gan("one-step:fashion16,sigma=2.5")
    gan.generator.write_original(tmp_path / "one.pkl")
    capsys.readouterr()
    arguments = [f"--gan={tmp_path / 'one.pkl'}", "--gan=one-step:fashion16", "--images=50", "--device=cpu"]
    assert command(monkeypatch, cli, "evaluate", *arguments, "--fid-seeds=1") == 0
    first, second, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["results"] == second["results"]
    assert next(iter(first["results"].values())) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one-step:", "names no teacher"),
        ("one-step", "names no teacher"),
        ("one-step:fashion16,sigma=0", "--gan=one-step:fashion16,sigma=0 is not allowed"),
        ("one-step:fashion16,sigma=100", "between 0.002 and 80"),
        ("one-step:fashion16,steps=2", "unknown option 'steps'"),
        ("one-step:nowhere.pkl", "nowhere.pkl is not a file"),
    ],
)
def test_bad_specs_are_named(text, message):
    with pytest.raises((OptionError, FileFormatError), match=message):
        open_gan(text)


def test_a_trusted_teacher_is_no_one_step_generator(tmp_path):
    """Its code is not ours, and the file says so at once, whether or not it was opened before as the teacher."""
    (tmp_path / "foreign.pkl").write_bytes(b"no network")
    with pytest.raises(FileFormatError, match=r"foreign\.pkl"):
        teacher = Teacher(tmp_path / "foreign.pkl", EdmTeacher(small_unet(8)))
        open_gan(f"one-step:{tmp_path / 'foreign.pkl'}", trust=True, teacher=teacher)


def test_other_files_are_refused(teachers, tmp_path):
    with pytest.raises(FileFormatError, match="--gan=one-step:FILE"):
        open_gan(str(teachers[0])).load()
    with pytest.raises(FileFormatError, match="is not a one-step generator"):
        OneStep.load(teachers[0])
    net = load_edm(teachers[0]).net
    for entry in ({"sigma": "2.5"}, {"sigma": -1.0}, {"sigma": float("inf")}, 2.5, {"sigma": [1] * 1000}):
        write_networks(tmp_path / "odd.pkl", {"ema": net, "one_step": entry})
        with pytest.raises(FileFormatError, match="one_step"):
            OneStep.load(tmp_path / "odd.pkl")


def test_a_level_outside_of_the_teachers_range_is_refused(tmp_path):
    write_networks(tmp_path / "narrow.pkl", {"ema": small_unet(8, sigma_max=1.0)})
    with pytest.raises(OptionError, match=r"sigma=2.5 of one-step is outside narrow.pkl's range, 0 to 1"):
        distil(tmp_path / "narrow.pkl", OneStepOptions())


def test_truncation_is_refused(teachers):
    with pytest.raises(MismatchError, match="one-step generators have no truncation; leave --trunc out"):
        distil(teachers[0], OneStepOptions()).truncated(0.5)
