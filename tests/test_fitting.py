"""--batch-gpu=auto: the largest micro-batch that fits, found without changing anything."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner

import run_refine
from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import DiffInstruct, DiffInstructOptions, DiGan, DiGanOptions
from gan_refine.refine import fit_batch
from gan_refine.teachers import GaussianTeacher
from runs import SMALL, differences, write_pair

SPEC = ImageSpec(1, 4)
OPTIONS = RefineOptions(batch=24, batch_gpu=1, warmup_images=8)


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

    def auxiliary_loss(self, fake, labels, rng):
        self._limit("auxiliary", len(fake))
        return super().auxiliary_loss(fake, labels, rng)

    def generator_loss(self, fake, labels, rng):
        self._limit("generator", len(fake))
        return super().generator_loss(fake, labels, rng)


@pytest.mark.parametrize("where", ["auxiliary", "generator"])
@pytest.mark.parametrize("most, found", [(24, 24), (11, 8), (7, 6), (1, 1)])
def test_the_largest_divisor_of_the_batch_that_fits(most, found, where):
    objective = Narrow(most, where)
    generator = AffineGenerator(0.5, 0.0, SPEC)
    assert fit_batch(generator, objective, OPTIONS) == found
    assert {step for step, count in objective.tried if count == found} == {"auxiliary", "generator"}, (
        "each kind of step"
    )


def test_nothing_is_changed_by_trying():
    objective, generator = DiffInstruct(GaussianTeacher(1.0, 0.5, SPEC)), AffineGenerator(0.5, 0.0, SPEC)
    before = copy.deepcopy([objective.state_dict(), generator.state_dict()])
    assert fit_batch(generator, objective, OPTIONS) == 24
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


def test_a_size_that_is_no_number_is_refused(tmp_path):
    result = run(*write_pair(tmp_path), *SMALL, f"--outdir={tmp_path / 'runs'}", "--batch-gpu=many")
    assert isinstance(result.exception, OptionError)
    assert "--batch-gpu=many is not allowed; give a whole number, or auto" in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_trials_make_no_samples_of_the_teacher():
    options = DiGanOptions(discriminator="fresh", samples=64, steps=2, window=8)
    objective = DiGan(GaussianTeacher(0.5, 0.25, ImageSpec(1, 8)), options)
    assert fit_batch(AffineGenerator(0.5, 0.0, ImageSpec(1, 8)), objective, OPTIONS) == 24
    assert len(objective.samples) == 0
