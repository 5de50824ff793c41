"""The table of objectives: their options, defaults and distributions of sigma, and how one is added."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from toys import gradient_at

from gan_refine import objectives
from gan_refine.config import RefineOptions, require
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, Loss, Objective, ParameterGroup
from gan_refine.noise import Karras, LogNormal
from gan_refine.objectives import GanFile, Sid, SidOptions, Sim, SimOptions, build_objective, objective_class
from gan_refine.refine import RefineState, advance, fit_batch, load_state, record_state, refine
from gan_refine.teachers import GaussianTeacher

PIXEL = ImageSpec(channels=1, resolution=1)
TEACHER = GaussianTeacher(0.0, 1.0, PIXEL)


def test_diff_instruct_dmd_is_diff_instruct_with_the_choices_of_dmd():
    preset = build_objective("diff-instruct-dmd", TEACHER)
    spelled = build_objective("diff-instruct,weighting=dmd,sigma=karras,score_steps=5", TEACHER)
    assert preset.auxiliary_steps == spelled.auxiliary_steps == 5
    assert preset.law == spelled.law == Karras(lower=0.02, upper=0.98)
    fake = torch.randn([32, 1, 1, 1])
    for objective in (preset, spelled):
        objective.score_model.mean.data.fill_(0.4)
    gradient = gradient_at(preset, fake)[0]
    assert torch.equal(gradient, gradient_at(spelled, fake)[0]) and gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["sid", "sim"])
def test_sid_and_sim_draw_sigma_from_the_lower_80_percent_of_the_grid(name):
    sigma = build_objective(name, TEACHER).law.sample(20_000, torch.Generator().manual_seed(0))
    assert float(sigma.min()) == pytest.approx(0.002, rel=0.02)
    assert float(sigma.max()) == pytest.approx(24.4, rel=0.01)


def test_diff_instruct_and_sds_draw_edms_sigma_by_default():
    for name in ("diff-instruct", "sds"):
        assert build_objective(name, TEACHER).law == LogNormal(-1.2, 1.2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sid,sigma_from=0.8,sigma_to=0.5", "--objective=sid,sigma_to=0.5 is not allowed"),
        ("sid,sigma_from=-0.1", "--objective=sid,sigma_from=-0.1"),
        ("sid,alpha=nan", "'nan' for alpha of --objective=sid"),
        ("sim,huber=0", "--objective=sim,huber=0 is"),
        ("sds,sigma_std=0", "--objective=sds,sigma_std=0 is"),
        ("sds,score_ema=1", "unknown option 'score_ema' of --objective=sds"),
        ("diff-instruct-dmd,score_steps=0", "--objective=diff-instruct-dmd,score_steps=0"),
        ("diff-instruct,score_ema=-1", "--objective=diff-instruct,score_ema=-1"),
        (
            "di-gan,start=0,samples=32",
            "^--objective=di-gan,samples=32 is not allowed; give a number from 64 to 10000000$",
        ),
        ("di-gan,diff_instruct=0,adversarial=0,pixels=0,imagenet=0", "one of the five weights above 0"),
        ("sid,weighting=dmd", "unknown option 'weighting' of --objective=sid"),
        ("diff-instruct,weighting=one", "choose one of sigma2, dmd, score"),
        ("carried", "unknown objective 'carried'; choose one of di-gan, diff-instruct"),
    ],
)
def test_bad_options_are_named(spec, message):
    with pytest.raises(OptionError, match=message):
        build_objective(spec, TEACHER)


def test_objectives_can_be_made_without_texts():
    assert Sid(TEACHER, SidOptions(alpha=1.0)).options.alpha == 1.0
    assert Sim(TEACHER, SimOptions(huber=0.1)).options.huber == 0.1


@dataclass(frozen=True)
class FollowOptions:
    level: float = 1.0

    def __post_init__(self) -> None:
        require("level", self.level, self.level <= 2, "at most 2")


class Follow(Objective):
    """The squared distance of the pixel values to `level`; its auxiliary parameter learns the mean of the generator's images."""

    Options = FollowOptions
    default_lr = 0.02
    auxiliary_steps = 2

    def __init__(self, teacher, options: FollowOptions | None = None, gan: GanFile | None = None) -> None:
        super().__init__()
        self.teacher, self.options, self.given = teacher, options or FollowOptions(), gan
        self.mean = nn.Parameter(torch.zeros([]))
        self.told: list[int] = []

    def generator_loss(self, fake, labels, rng) -> Loss:
        return Loss((fake - self.options.level).square().flatten(1).sum(1), torch.zeros(len(fake)), {})

    def auxiliary_loss(self, fake, labels, rng) -> Loss:
        return Loss((fake - self.mean).square().flatten(1).mean(1), torch.zeros(len(fake)), {})

    def auxiliary_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([self.mean], lr=0.5)]

    def auxiliary_stepped(self, images: int) -> None:
        self.told.append(images)

    def frozen_modules(self) -> list[nn.Module]:
        return [self.teacher]


def test_an_objective_is_added_by_one_class_and_one_line_of_the_table(monkeypatch):
    """What a run needs to know of it is read from the class and the object, by no other name."""
    monkeypatch.setattr(objectives, "OBJECTIVES", {**objectives.OBJECTIVES, "follow": Follow})
    cls = objective_class("follow,level=0.5")
    assert cls.default_lr == 0.02
    with pytest.raises(OptionError, match="unknown option 'speed' of --objective=follow; its options are: level"):
        build_objective("follow,speed=1", TEACHER)
    with pytest.raises(OptionError, match=r"--objective=follow,level=3 is not allowed; give at most 2"):
        build_objective("follow,level=3", TEACHER)
    gan = GanFile()
    objective = build_objective("follow,level=0.5", TEACHER, gan)
    assert isinstance(objective, Follow) and objective.options.level == 0.5 and objective.given is gan
    assert objective.notices() == []

    options = RefineOptions(
        total_images=320, batch=8, batch_gpu=4, warmup_images=24, tick_images=320, glr=cls.default_lr, lr_decay=0.0
    )
    assert fit_batch(AffineGenerator(0.8, -0.5, PIXEL), objective, options) == 8
    assert not objective.told, "trials use copies"
    generator = AffineGenerator(0.8, -0.5, PIXEL)
    *_, last = refine(generator, objective, options)
    assert last.images == 320 and float(generator.shift.detach()) > -0.4
    assert objective.told == [8] * (3 + 40 * cls.auxiliary_steps)

    state = RefineState(generator, objective, RefineOptions(**{**vars(options), "total_images": 16}))
    objective.told.clear()
    assert [state.images for _ in advance(state)] == [0, 0, 0, 8, 16]
    assert objective.told == [8] * (3 + 2 * cls.auxiliary_steps)
    record = record_state(state)
    assert set(record["objective"]) == {"mean"}, "the frozen teacher is in no checkpoint"
    twin = RefineState(AffineGenerator(0, 0, PIXEL), build_objective("follow", TEACHER), state.options)
    load_state(twin, record)
    assert torch.equal(twin.objective.mean, objective.mean) and twin.images == 16
