"""What is known of a run at its end."""

from pathlib import Path

from gan_refine.evaluation import Measured, Table, tabulate, verdict
from gan_refine.metrics import OnProgress
from gan_refine.run.build import Run
from gan_refine.run.history import RunHistory
from gan_refine.run.summary import UNMEASURED, Summary

BEFORE, AFTER, LAST = "before", "after", "last snapshot"


def summarize(
    run: Run, history: RunHistory, kimg: float, best_path: Path, complete: bool, tables: list[Table]
) -> Summary:
    """The run after `kimg` thousand images in one record; `tables` are those of `compare`, which is for `complete` runs."""
    return Summary(
        gan=run.options.gan,
        teacher=run.options.teacher,
        metric=None if run.yardsticks is None else run.yardsticks.name,
        before=history.before,
        after=history.best,
        verdict=_verdict(run, history, tables, complete),
        kimg=kimg,
        seconds=round(history.seconds, 1),
        parts={name: round(seconds, 1) for name, seconds in history.parts.items()},
        refined=str(best_path),
        tables=tuple(tables),
        data_free_gap=(history.first_nats, history.last_nats),
        complete=complete,
    )


def _verdict(run: Run, history: RunHistory, tables: list[Table], complete: bool) -> str:
    if run.yardsticks is None:
        return UNMEASURED
    if not complete:
        return "Stopped before the end."
    if history.best_kimg == 0:
        return f"Nothing improved, so the best pickle is the original; {verdict(tables, LAST, 'the last snapshot')}"
    biased = (
        "" if run.options.fid_seeds else " These latents selected the snapshot, which biases the change towards better."
    )
    return verdict(tables, AFTER, "The generator") + biased


def compare(run: Run, history: RunHistory, best_path: Path, progress: OnProgress) -> list[Table]:
    """Original and best pickle with --fid-seeds sets of latents that selected nothing; the last one if the original is the best.

    With --fid-seeds=0 the latents are those that selected. Empty with --metrics=none.
    """
    if run.yardsticks is None or run.original is None:
        return []
    after = (AFTER, best_path) if history.best_kimg else (LAST, best_path.with_name("network-refined-last.pkl"))
    networks = {BEFORE: run.original, after[0]: run.load_refined(after[1])}
    seed, sets = run.options.refine.seed, run.options.fid_seeds
    seeds = range(seed + 1, seed + 1 + sets) if sets else (seed,)
    runs = [
        Measured(name, each, run.measure(net, progress, each, table=True))
        for name, net in networks.items()
        for each in seeds
    ]
    return tabulate(run.table_yardsticks, runs, selected=True)
