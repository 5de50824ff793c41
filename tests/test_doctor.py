"""`gan-refine doctor` and the plan of --dry-run: what they find, what they count, what they refuse."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gan_refine.cli import cli
from gan_refine.config import RefineOptions
from gan_refine.errors import UserError
from gan_refine.evaluation import samples
from gan_refine.objectives import DiGan, di_gan
from gan_refine.run.build import TO_LEARN, build, give_learning_samples
from gan_refine.run.clock import LEARNING, Phase, duration
from gan_refine.run.environment import environment_rows
from gan_refine.run.hints import hints
from gan_refine.run.options import RunOptions
from gan_refine.run.plan import Plan, make_plan, plan_lines
from gan_refine.run.timing import cost
from runs import write_pair


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["doctor", "--device=cpu", *map(str, arguments)])


def test_the_machine_is_described_without_files() -> None:
    ended = doctor()
    assert ended.exit_code == 0, ended.output
    for name in ("Python", "torch", "memory", "C++ compiler", "kernels, cpu", "output folder", "cache", "extras"):
        assert re.search(rf"^  {re.escape(name)} ", ended.stdout, re.MULTILINE), name


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows = dict(environment_rows(tmp_path / "file" / "runs"))
    assert "is NOT writable" in rows["output folder"]
    assert "is writable" in dict(environment_rows(tmp_path / "new" / "runs"))["output folder"]


def test_a_pair_gets_its_plan_and_its_command(pair: list[str], tmp_path: Path) -> None:
    ended = doctor(*pair, "--batch=8", f"--outdir={tmp_path / 'runs'}")
    assert ended.exit_code == 0, ended.output
    assert "They fit." in ended.stdout
    assert re.search(
        r"^time +about [\d.]+ (s|min|h), .*: teacher samples to measure .* final tables", ended.stdout, re.MULTILINE
    )
    options = re.findall(r"(--[a-z-]+)=", ended.stdout.splitlines()[-1])
    assert options == ["--gan", "--teacher", "--outdir", "--batch"]  # the run itself decides the rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gan=fashion16"], "give both --gan and --teacher"),
        (["--gan=fashion16", "--teacher=nowhere.pkl"], "is not a file"),
    ],
)
def test_bad_input(arguments: list[str], message: str) -> None:
    ended = doctor(*arguments)
    assert isinstance(ended.exception, UserError) and message in str(ended.exception)


def test_a_pair_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    ended = doctor(*write_pair(tmp_path, resolution=32))
    assert isinstance(ended.exception, UserError) and "choose a teacher of the GAN's size" in str(ended.exception)


def planned(pair: list[str], **options: int) -> tuple[list[str], Plan]:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    refine = RefineOptions(batch=8, batch_gpu=4, **options)
    run = build(RunOptions(gan=gan, teacher=teacher, eval_images=100, objective="diff-instruct", refine=refine))
    plan = make_plan(run)
    return plan_lines(run, plan), plan


def test_calls_are_those_of_the_phases(pair: list[str]) -> None:
    lines, plan = planned(pair, total_images=480, warmup_images=32, tick_images=160)
    images = {name: phase.images for name, phase in plan.phases.items()}
    assert images == {
        "teacher samples to measure against": 200,  # the reference, and as many for the floor
        "warm-up": 32,
        "learning": 480,
        "evaluation": 400,  # of the original and of three snapshots
        "final tables": 800,  # before and after with three sets of latents, the floor, the reference
    }
    assert all(phase.seconds > 0 for phase in plan.phases.values())
    (calls,) = (line for line in lines if line.startswith("calls"))
    assert calls == "calls     generator 2.0 kimg, teacher 4.1 kimg, score model 1.0 kimg"
    assert len(lines) <= 10


def test_each_step_calls_both_networks(pair: list[str]) -> None:
    lines, _ = planned(pair, total_images=1600, warmup_images=0)
    (calls,) = (line for line in lines if line.startswith("calls"))
    assert "teacher 5.2 kimg, score model 3.2 kimg" in calls


def test_a_plan_changes_nothing_of_the_run(pair: list[str]) -> None:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    run = build(RunOptions(gan=gan, teacher=teacher, metrics="none"))
    before = {name: tensor.clone() for name, tensor in run.generator.state_dict().items()}
    state = torch.get_rng_state()
    make_plan(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.equal(before[name]) for name, tensor in run.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in run.objective.parameters())


def test_the_plan_tells_of_whitening_and_of_what_is_done_once_before_the_first_steps(pair: list[str]) -> None:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    refine = RefineOptions(batch=8, batch_gpu=8, total_images=80, warmup_images=8, tick_images=80)
    given = RunOptions(gan=gan, teacher=teacher, metrics="none", objective="di-gan,samples=64", refine=refine)
    runs = [build(given), build(replace(given, objective="di-gan,samples=8192", whiten_w=0.0))]
    few, many = (make_plan(run) for run in runs)
    (first,), (second,) = ([line for line in plan_lines(run, few) if line.startswith("method")] for run in runs)
    assert ", w whitened by 0.1, " in first and ", w not whitened, " in second
    assert many.phases["warm-up"].total > 5 * few.phases["warm-up"].total, "the features of 8192 samples take long"


def test_samples_that_are_kept_cost_nothing(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path))
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    objective = "di-gan,imagenet=0,samples=64,steps=2,window=8"
    run = build(RunOptions(gan=gan, teacher=teacher, eval_images=20, teacher_steps=2, objective=objective))
    phases = make_plan(run).phases
    assert phases["teacher samples to measure against"].images == 40
    assert phases["teacher samples to learn from"].images == 64
    run.open_references(lambda images: None)
    give_learning_samples(run.objective, run.teacher, run.options.refine.total_images)
    assert not [name for name in make_plan(run).phases if name.startswith("teacher samples")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--metrics=pr"], "pr starts"),
        (["--metrics=fd,nn", "--eval-images=3"], "needs more than"),
        (["--metrics=fd", "--detector=inception,path=nowhere.pt"], "nowhere.pt"),
        (["--teacher-steps=0", "--detector=pixels"], "there is nothing to measure against"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    pair: list[str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    complaints = []
    for more in ([], ["--dry-run"]):
        given = ["refine", *pair, *arguments, *more, "--device=cpu", f"--outdir={tmp_path}"]
        complaints.append(CliRunner().invoke(cli, given).exception)
    assert all(isinstance(each, UserError) for each in complaints), complaints
    assert str(complaints[0]) == str(complaints[1])
    assert message.partition(" starts")[0] in str(complaints[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds, text", [(4.2, "4 s"), (600.0, "10 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_measured_step_does_no_rare_work(pair: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    gammas: list[float] = []
    real = di_gan.discriminator_loss
    monkeypatch.setattr(di_gan, "R1_INTERVAL", 1)  # every step of the run carries the penalty
    monkeypatch.setattr(di_gan, "discriminator_loss", lambda *given: gammas.append(given[5]) or real(*given))
    objective = "di-gan,imagenet=0,samples=64,steps=2,window=8,discriminator=fresh"
    refine = RefineOptions(batch=8, batch_gpu=8, total_images=64, warmup_images=8)
    run = build(RunOptions(gan=gan, teacher=teacher, metrics="none", objective=objective, refine=refine))
    make_plan(run)
    assert gammas and not any(gammas)
    size = run.generator.spec.resolution
    assert isinstance(run.objective, DiGan) and run.objective.r1_gamma == pytest.approx(4e-5 * size**2), (
        "the run itself keeps it"
    )


def test_calls_are_counted_and_not_assumed(pair: list[str]) -> None:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    refine = RefineOptions(batch=8, batch_gpu=8, total_images=1000, warmup_images=0)
    given = RunOptions(gan=gan, teacher=teacher, metrics="none", teacher_steps=0, refine=refine)
    gan_alone = "di-gan,diff_instruct=0,pixels=0,samples=64,steps=2,discriminator=fresh"
    calls = {
        objective: make_plan(build(replace(given, objective=objective))).calls
        for objective in ("diff-instruct", "diff-instruct,joint=true", "sds", gan_alone)
    }
    average = make_plan(build(replace(given, objective="diff-instruct,score_ema=100"))).calls
    assert calls["diff-instruct"] == {"generator": 2000, "teacher": 1000, "score model": 2000}
    assert calls["diff-instruct,joint=true"] == {"generator": 1000, "teacher": 1000, "score model": 1000}
    assert average == {"generator": 2000, "teacher": 1000, "score model": 2000}, (
        "the average is called as the score model"
    )
    assert calls["sds"] == {"generator": 1000, "teacher": 1000}
    assert calls[gan_alone] == {"generator": 3000, "teacher": 128, "discriminator": 6000, "ImageNet features": 1000}


def test_the_cost_of_a_batch_is_told_from_that_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(seconds: Callable[[int], float], sizes: tuple[int, int] = (2, 8)) -> tuple[float, list[int]]:
        done: list[int] = []
        monkeypatch.setattr("gan_refine.run.timing.time.perf_counter", lambda: sum(map(seconds, done)))
        return cost(done.append, sizes, "cpu").each(64), done

    each, done = found(lambda size: 0.3 + 0.02 * size)
    assert each == pytest.approx(0.02 + 0.3 / 64) and done == [2, 2, 8], "the first run is not timed"
    assert found(lambda size: 0.02 * size)[0] == pytest.approx(0.02)
    assert found(lambda size: 0.1)[0] == pytest.approx((0.1 * 0.25 / 8 * 8 * 7 + 0.1) / 64), (
        "noise takes no image's time"
    )
    assert found(lambda size: 0.01 * size**2)[0] == pytest.approx(0.08), "and no batch less than nothing"
    assert found(lambda size: 0.3 + 0.02 * size, (4, 4)) == (pytest.approx(0.38 / 4), [4, 4])


def hinted(
    pair: list[str], objective: str = "di-gan,imagenet=0,samples=64,steps=2,window=8", **options: object
) -> list[str]:
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    given = {"eval_images": 600, "teacher_steps": 2, **options}
    run = build(RunOptions(gan=gan, teacher=teacher, objective=objective, **given))  # type: ignore[arg-type]
    return [line for line in plan_lines(run, make_plan(run)) if line.startswith("hint")]


def test_a_plan_says_what_is_unwise(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path))
    monkeypatch.setattr(samples, "USUAL", (30, 40))
    assert hinted(pair) == []
    long = replace(RefineOptions(batch=8, batch_gpu=8), total_images=64, warmup_images=65)
    (text,) = hinted(pair, refine=long)
    assert "warm-up (--warmup-kimg=0.065)" in text and "longer than the rest of the run (--kimg=0.064)" in text
    assert hinted(pair, objective="sds", refine=long) == [], "without a score model there is no warm-up"
    (text,) = hinted(pair, eval_images=300)
    assert re.search(
        r"--eval-images=300 is few for fd in the 256 features of pixels: .*; give --eval-images=512$", text
    )
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    kept = build(RunOptions(gan=gan, teacher=teacher, eval_images=30, teacher_steps=2, objective="sds"))
    kept.open_references(lambda images: None)
    (text,) = hinted(pair, eval_images=601)
    assert re.search(
        r"1202 teacher samples to measure against are made first, about \d+ s; --eval-images=30 or fewer would take",
        text,
    )
    assert not any("made first" in line for line in hinted(pair, eval_images=20)), (
        "the first of those that are there serve"
    )


@pytest.mark.parametrize("made, learning, is_told", [(180, 1.0, True), (180, 3.0, False), (20, 0.1, False)])
def test_samples_that_cost_more_than_the_learning_are_pointed_out(
    pair: list[str], made: int, learning: float, is_told: bool
) -> None:
    """At 1 second a sample and 64 images to learn from; what takes less than a minute is not worth a line."""
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    run = build(
        RunOptions(gan=gan, teacher=teacher, objective="di-gan,imagenet=0,samples=64", eval_images=600, teacher_steps=2)
    )
    found = hints(run, {TO_LEARN: Phase(made, 1.0), LEARNING: Phase(64, learning)})
    assert [line.partition(":")[0] for line in found if "longer run" in line] == is_told * [
        "teacher samples to learn from take 3 min to make and the learning 64 s"
    ]
