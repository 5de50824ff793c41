"""What to know of a run before it starts: samples that cost more than they bring, a warm-up that is too long, too few images."""

from collections.abc import Mapping

from gan_refine.evaluation import cached_images
from gan_refine.run.build import TO_LEARN, TO_MEASURE, Run, class_notice
from gan_refine.run.clock import LEARNING, LONG, Phase, duration
from gan_refine.run.folder import picture_notice


def hints(run: Run, phases: Mapping[str, Phase]) -> list[str]:
    """A line for each, with the option that helps. `phases` holds the samples that are to be made."""
    few = [] if run.sources is None else run.sources.few_images("--eval-images")
    return [*_new_samples(run, phases), *_mostly_samples(phases), *_long_warmup(run), *few]


def notices(run: Run) -> list[str]:
    """What is unusual in how this pair is refined and shown, a sentence each: classes, pictures, losses that are left out."""
    classes = class_notice(run.generator.spec, run.teacher.denoiser.spec, run.options.labels)
    shown = picture_notice(run.measured_spec.channels)
    known = [text for text in (classes, shown) if text is not None]
    return [*known, *run.objective.notices(), *run.generator.full_size().notices()]


def _new_samples(run: Run, phases: Mapping[str, Phase]) -> list[str]:
    """Samples that are made although others are there."""
    found = []
    for name, option, factor in ((TO_MEASURE, "--eval-images=", 1), (TO_LEARN, "samples=", 2)):
        if name not in phases:
            continue
        there = factor * cached_images(run.teacher, run.sampling[name])
        if there:
            fewer = "" if run.teacher.denoiser.spec.num_classes else " or fewer"
            found.append(
                f"{phases[name].images} {name} are made first, about {duration(phases[name].total)}; {option}{there}{fewer} would "
                "take those that are there"
            )
    return found


def _mostly_samples(phases: Mapping[str, Phase]) -> list[str]:
    """Samples to learn from that take longer to make than to learn from."""
    made, learning = (phases[name].total if name in phases else 0.0 for name in (TO_LEARN, LEARNING))
    if made <= max(learning, LONG):
        return []
    return [
        f"{TO_LEARN} take {duration(made)} to make and the learning {duration(learning)}: a longer run (--kimg) goes further for "
        "the same samples, which are kept for later runs"
    ]


def _long_warmup(run: Run) -> list[str]:
    options = run.options.refine
    if options.warmup_images <= options.total_images or not run.objective.auxiliary_groups():
        return []
    warmup, total = options.warmup_images / 1000, options.total_images / 1000
    return [
        f"the warm-up (--warmup-kimg={warmup:g}), in which the generator does not learn, is longer than the rest of the run "
        f"(--kimg={total:g}): lower the one or raise the other"
    ]
