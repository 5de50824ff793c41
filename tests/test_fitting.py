"""--batch-gpu=auto: the largest micro-batch that fits, found without changing anything."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from runs import SMALL, differences, write_pair

import run_refine
from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.refine import fit_batch
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(1, 4)
OPTIONS = RefineOptions(batch=24, batch_gpu=1, warmup_images=8, pool_images=0)


class Narrow(DiffInstruct):
    """Runs out of memory where more than `most` images come at a time, as a GPU would; `where` names the step."""

    def __init__(self, most: int, where: str) -> None:
        super().__init__(GaussianTeacher(1.0, 0.5, SPEC), DiffInstructOptions(score_ema=100))
        self.most, self.where, self.tried = most, where, []

    def __deepcopy__(self, memo):
        copied = Narrow(self.most, self.where)
        copied.tried = self.tried
        return copied

    def _limit(self, step: str, count: int) -> None:
        self.tried.append((step, count))
        if step == self.where and count > self.most:
            raise torch.cuda.OutOfMemoryError(f"{count} images")

    def helper_terms(self, fake, labels, rng):
        self._limit("helper", len(fake))
        return super().helper_terms(fake, labels, rng)

    def generator_terms(self, fake, labels, rng):
        self._limit("generator", len(fake))
        return super().generator_terms(fake, labels, rng)


@pytest.mark.parametrize("pool_images", [0, 48])
@pytest.mark.parametrize("where", ["helper", "generator"])
@pytest.mark.parametrize("most, found", [(24, 24), (11, 8), (7, 6), (1, 1)])
def test_the_largest_divisor_of_the_batch_that_fits(most, found, where, pool_images):
    objective = Narrow(most, where)
    generator = AffineGenerator(0.5, 0.0, SPEC)
    assert fit_batch(generator, objective, replace(OPTIONS, pool_images=pool_images)) == found
    assert {step for step, count in objective.tried if count == found} == {"helper", "generator"}, "each kind of step"


def test_nothing_is_changed_by_trying():
    objective, generator = DiffInstruct(GaussianTeacher(1.0, 0.5, SPEC)), AffineGenerator(0.5, 0.0, SPEC)
    before = copy.deepcopy([objective.state_dict(), generator.state_dict()])
    assert fit_batch(generator, objective, OPTIONS, frozen=[objective.teacher]) == 24
    assert differences([dict(objective.state_dict()), dict(generator.state_dict())], [dict(b) for b in before]) == []
    assert all(p.grad is None for module in (objective, generator) for p in module.parameters())


def test_not_even_one_image_is_one_line():
    with pytest.raises(OptionError, match="not even one image"):
        fit_batch(AffineGenerator(0.5, 0.0, SPEC), Narrow(0, "generator"), OPTIONS)


def run(*arguments: str):
    return CliRunner().invoke(run_refine.cli, list(arguments))


def test_a_run_keeps_what_was_found(tmp_path):
    pair = write_pair(tmp_path)
    arguments = [*pair, *SMALL, "--kimg=0.016", "--metrics=none", f"--outdir={tmp_path}"]
    result = run(*arguments, "--batch-gpu=auto")
    assert result.exception is None, result.exception
    options = json.loads((tmp_path / "00000-tiny" / "options.json").read_text())
    assert options["refine"]["batch_gpu"] == options["refine"]["batch"] == 8
    assert "--batch-gpu=8 is the largest that fits" in result.stderr
    assert run(f"--resume={tmp_path / '00000-tiny'}", "--batch-gpu=auto").exception is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch-gpu=many"], "--batch-gpu=many is not allowed; give a whole number, or auto"),
        (
            ["--batch-gpu=auto", "--objective=adversarial,samples=64,steps=2"],
            "cannot try an objective that first makes",
        ),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    result = run(*write_pair(tmp_path), *SMALL, "--pool-kimg=0", f"--outdir={tmp_path / 'runs'}", *arguments)
    assert isinstance(result.exception, OptionError) and message in str(result.exception)
    assert not (tmp_path / "runs").exists()
