"""--train: which parts of the generator are trained, and at which rates; all others keep their bits, in the exported file too."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from toys import Foreign, bits, small_stylegan2, small_unet

import run_refine
from gan_refine.config import RefineOptions, parse_parts
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator, BridgeOptions, OneStep, StyleGan2, bridge
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.stylegan2 import Generator
from gan_refine.objectives import Sds
from gan_refine.pickles import write_state_dict
from gan_refine.refine import RefineState, advance, refine, resolve_train, trainable_groups
from gan_refine.teachers import GaussianTeacher
from runs import SMALL, write_pair

SPEC = ImageSpec(1, 8)
OPTIONS = RefineOptions(total_images=32, batch=8, batch_gpu=4, tick_images=16, ema_halflife_images=16, warmup_images=8)
PARTS = ("mapping", "synthesis", "affine", "noise")


def small(architecture: str = "skip", classes: int = 0) -> StyleGan2:
    return small_stylegan2(8, classes, 0.1, architecture=architecture)


def objective() -> Sds:
    return Sds(GaussianTeacher(0.5, 0.1, SPEC))


def part_of(name: str) -> str:
    """As the option's help says it, written another way."""
    if name.startswith("net.mapping."):
        return "mapping"
    return "affine" if ".affine." in name else "noise" if "noise_strength" in name else "synthesis"


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_is_in_one_group(architecture, classes):
    generator = small(architecture, classes)
    groups = generator.parameter_groups()
    assert tuple(groups) == PARTS
    found = [id(parameter) for parameters in groups.values() for parameter in parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in generator.parameters())
    for name, parameter in generator.named_parameters():
        assert any(parameter is member for member in groups[part_of(name)]), name
    assert {name for name, _ in generator.named_parameters() if part_of(name) == "synthesis"} >= {
        "net.synthesis.b4.const",
        "net.synthesis.b8.conv1.weight",
        "net.synthesis.b8.conv0.bias",
        "net.synthesis.b8.torgb.weight",
    }


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_learns_and_the_others_keep_their_bits(part):
    generator = small()
    before = {name: value.clone() for name, value in generator.named_parameters()}
    *_, last = refine(generator, objective(), replace(OPTIONS, train=part))
    for module in (generator, last.average):
        for name, value in module.named_parameters():
            same = torch.equal(bits(value), bits(before[name]))
            assert same == (part_of(name) != part), name
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_by_default_all_but_the_noise_strengths_learn():
    assert resolve_train(small(), "auto") == "mapping,synthesis,affine" and resolve_train(small(), "all") == "all"
    whole = bridge(small(), ImageSpec(1, 4), BridgeOptions())
    assert resolve_train(whole, "auto") == "mapping,synthesis,affine"
    assert resolve_train(AffineGenerator(0.8, 0.0, SPEC), "auto") == "all"
    generator = small()
    before = {name: value.clone() for name, value in generator.named_parameters()}
    *_, last = refine(generator, objective(), OPTIONS)
    for name, value in last.average.named_parameters():
        assert torch.equal(bits(value), bits(before[name])) == (part_of(name) == "noise"), name


def test_negative_zero_keeps_its_sign_in_the_average():
    generator = small()
    bias = dict(generator.named_parameters())["net.synthesis.b4.conv1.bias"]
    bias.data.fill_(-0.0)
    *_, last = refine(generator, objective(), replace(OPTIONS, train="mapping"))
    averaged = dict(last.average.named_parameters())["net.synthesis.b4.conv1.bias"]
    assert bool(torch.signbit(averaged).all())


def test_all_parts_together_are_the_default():
    results = []
    for train in ("all", "all:1", ",".join(PARTS)):
        generator = small()
        *_, last = refine(generator, objective(), replace(OPTIONS, train=train))
        results.append({**generator.state_dict(), **{f"ema.{k}": v for k, v in last.average.state_dict().items()}})
    for other in results[1:]:
        assert all(torch.equal(results[0][name], value) for name, value in other.items())


def first_step(train: str, lr: float = 1e-3) -> dict[str, float]:
    """The largest move of each part in Adam's first step, which has full size whatever the gradient."""
    generator = small()
    before = {name: value.detach().clone() for name, value in generator.named_parameters()}
    options = replace(OPTIONS, total_images=8, train=train, glr=lr, lr_rampup=0.0, lr_decay=0.0)
    for _ in advance(RefineState(generator, objective(), options)):
        pass
    moved: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for name, value in generator.named_parameters():
        move = float((value.detach().double() - before[name].double()).abs().max())
        moved[part_of(name)] = max(moved[part_of(name)], move)
    return moved


def test_a_part_learns_at_its_multiple_of_the_rate():
    moved = first_step("synthesis,affine:0.1,noise:3")
    assert moved == pytest.approx({"mapping": 0, "synthesis": 1e-3, "affine": 1e-4, "noise": 3e-3}, rel=2e-2)
    assert max(first_step("all:0.5").values()) == pytest.approx(5e-4, rel=2e-2)


@pytest.mark.parametrize("text", ["", ",", "synthesis,", "affine:", "affine:x", "affine:0", "affine:-1", "affine:nan"])
@pytest.mark.parametrize("prefix", ["", "mapping,mapping,"])
def test_texts_that_name_no_parts(prefix, text):
    with pytest.raises(OptionError, match=r"--train=.* is not allowed at .*; write parts like synthesis,affine:0.1"):
        RefineOptions(train=prefix + text)


def test_texts_that_name_parts():
    assert parse_parts("synthesis, affine:0.1,noise:2") == {"synthesis": 1.0, "affine": 0.1, "noise": 2.0}


def test_parts_that_a_generator_does_not_have():
    with pytest.raises(
        OptionError, match="names torgb, which this generator does not have; choose from mapping, synthesis"
    ):
        trainable_groups(small(), "torgb")
    with pytest.raises(OptionError, match="names all and parts of it"):
        trainable_groups(small(), "all,mapping")
    silent = Generator(8, 0, 8, 8, 1, synthesis_kwargs={"channel_base": 64, "channel_max": 8, "use_noise": False})
    with pytest.raises(OptionError, match="names noise, which this generator does not have"):
        trainable_groups(StyleGan2(silent), "noise")


@pytest.mark.parametrize(
    "generator", [AffineGenerator(0.5, 0.0, SPEC), OneStep(small_unet(8), 2.5)], ids=["toy", "one-step"]
)
def test_a_generator_without_parts_refuses_them_and_takes_all(generator):
    with pytest.raises(
        OptionError, match="names parts, and a generator of this kind is not divided into parts; leave it out"
    ):
        trainable_groups(generator, "mapping")
    (group,) = trainable_groups(generator, "all:2")
    assert [id(p) for p in group.parameters] == [id(p) for p in generator.parameters()] and group.multiple == 2


@pytest.mark.parametrize("inner, divided", [(small(), True), (AffineGenerator(0.5, 0.0, SPEC), False)])
def test_behind_a_bridge_the_parts_are_those_of_the_generator(inner, divided):
    bridged = bridge(inner, ImageSpec(1, 4), BridgeOptions())
    if divided:
        (group,) = trainable_groups(bridged, "affine")
        assert [id(p) for p in group.parameters] == [id(p) for p in inner.parameter_groups()["affine"]]
    else:
        with pytest.raises(OptionError, match="is not divided"):
            trainable_groups(bridged, "affine")


def run(*arguments: str):
    return CliRunner().invoke(run_refine.cli, [*arguments, "--metrics=none"])


@pytest.mark.parametrize("kind", ["one-step", "trusted"])
def test_the_command_refuses_before_it_writes(kind, tmp_path):
    pair = write_pair(tmp_path)
    (tmp_path / "foreign.pkl").write_bytes(pickle.dumps({"G_ema": Foreign()}))
    own = {"one-step": [f"--gan=one-step:{tmp_path / 'teacher.pkl'}"], "trusted": [f"--gan={tmp_path / 'foreign.pkl'}"]}
    extra = ["--trust-pickle"] if kind == "trusted" else []
    arguments = [pair[1], *own[kind], *extra, *SMALL, f"--outdir={tmp_path / 'runs'}", "--train=synthesis"]
    result = run(*arguments)
    assert isinstance(result.exception, OptionError) and "is not divided" in str(result.exception)
    assert not (tmp_path / "runs").exists()


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return StyleGan2.load(path).net.state_dict()


def test_the_exported_pickle_has_the_original_bits_of_what_was_not_named(tmp_path):
    pair = write_pair(tmp_path)
    arguments = [*pair, *SMALL, "--kimg=0.032", f"--outdir={tmp_path}", "--train=synthesis:2,affine", "--glr=0.01"]
    result = run(*arguments)
    assert result.exception is None, result.exception
    folder = tmp_path / "00000-tiny"
    assert json.loads((folder / "options.json").read_text())["refine"]["train"] == "synthesis:2,affine"
    before, after = tensors_of(tmp_path / "gan.pkl"), tensors_of(folder / "network-refined-best.pkl")
    parameters = dict(StyleGan2.load(tmp_path / "gan.pkl").net.named_parameters())
    for name, value in after.items():
        trained = name in parameters and part_of(f"net.{name}") in ("synthesis", "affine")
        assert torch.equal(bits(value), bits(before[name])) != trained, name
    resumed = run(f"--resume={folder}", "--train=mapping")
    assert isinstance(resumed.exception, OptionError)
    assert "--train=synthesis:2,affine (got --train=mapping)" in str(resumed.exception)
    assert run(f"--resume={folder}").exception is None


def test_a_state_dict_has_parts_too(tmp_path):
    write_state_dict(tmp_path / "gan.safetensors", small().net)
    assert tuple(StyleGan2.load(tmp_path / "gan.safetensors").parameter_groups()) == PARTS
