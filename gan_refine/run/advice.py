"""What goes wrong in a run, seen from its figures, each with the option that helps."""

from gan_refine.run.records import RunRecord

RISE = 1.5  # of the data-free estimate, which is noisy
FALL = 0.9  # of recall


def warnings_of(record: RunRecord) -> dict[str, str]:
    """A sentence for each kind of trouble that the figures so far show; empty for a run that goes well."""
    checks = (_not_finite, _worse, _gap_rises, _score_model_lags, _recall_falls)
    return {check.__name__: text for check in checks for text in check(record)}


def _not_finite(record: RunRecord) -> list[str]:
    steps = sum(value for _, value in record.series("skipped_steps"))
    shares = [value for _, value in record.series("nonfinite_share")]
    if not steps and not any(shares):
        return []
    return [
        f"{steps:g} steps were skipped because a gradient was not finite, and up to {max(shares, default=0):.1%} of the samples of "
        "a tick were not finite: lower --glr and --score-lr, or set --clip-grad."
    ]


def _worse(record: RunRecord) -> list[str]:
    curve = record.first_curve
    if len(curve) < 2 or curve[-1].value <= curve[0].value:
        return []
    other = "a lower --whiten-w" if record.options.whiten_w else "--l2-images=1"
    return [
        f"The last snapshot is worse than the original by the first metric ({curve[0].value:.3f} -> {curve[-1].value:.3f}; lower "
        f"is better): lower --glr, or {other}. network-refined-best.pkl keeps the best so far."
    ]


def _gap_rises(record: RunRecord) -> list[str]:
    values = [value for _, value in record.series("remaining_nats")]
    if len(values) < 3 or values[-1] <= RISE * values[0]:
        return []
    return [
        f"The data-free estimate rose from {values[0]:.2f} to {values[-1]:.2f} nats: lower --glr, or let the score model keep up "
        "with a higher --score-lr."
    ]


def _score_model_lags(record: RunRecord) -> list[str]:
    last = next((line for line in reversed(record.stats) if line.get("score_loss") is not None), None)
    if last is None:
        return []
    score, teacher = (_mean(last.get(name), last.get("band_samples")) for name in ("score_loss", "teacher_loss"))
    if score is None or teacher is None or score < teacher:
        return []
    return [
        f"The score model denoises the GAN's images no better than the teacher does ({score:.3f}, teacher {teacher:.3f}; lower is "
        "better), so its gradient means little: more --warmup-kimg, or a higher --score-lr."
    ]


def _recall_falls(record: RunRecord) -> list[str]:
    fallen = {
        name: curve
        for name, curve in record.curves.items()
        if "recall" in name and len(curve) > 1 and curve[-1].value < FALL * curve[0].value
    }
    return [
        f"{name} fell from {curve[0].value:.3f} to {curve[-1].value:.3f} (higher is better): the GAN loses diversity; stop earlier "
        "(--kimg), or set --l2-images=1 (and --whiten-w=0)."
        for name, curve in fallen.items()
    ]


def _mean(values: object, counts: object) -> float | None:
    """Over all samples, of means by band: rare noise levels count little, as in the loss that is minimized."""
    if not isinstance(values, list) or not isinstance(counts, list):
        return None
    pairs = [(value, count) for value, count in zip(values, counts, strict=True) if value is not None]
    return sum(value * count for value, count in pairs) / sum(count for _, count in pairs) if pairs else None
