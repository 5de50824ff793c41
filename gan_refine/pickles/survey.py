"""What a pickle names and holds up to the first error, even if it may not be opened."""

from dataclasses import dataclass, field

from gan_refine.pickles.archives import read_archive, written_by_torch
from gan_refine.pickles.foreign import Names
from gan_refine.pickles.machine import Machine, Workspace
from gan_refine.pickles.operations import run_pickle
from gan_refine.pickles.records import DAMAGE_ERRORS, DamagedError, PersistentObject, error_text


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found until the end of the file, or until the `problem` that ended the reading."""

    root: object = field(default=None, repr=False)
    known_names: tuple[str, ...] = ()
    unknown_names: tuple[str, ...] = ()
    called_names: tuple[str, ...] = ()
    persistent: tuple[PersistentObject, ...] = field(default=(), repr=False)
    problem: str | None = None


def survey_pickle(data: bytes) -> Survey:
    """Every name in a pickle, or in a file of torch.save, and its object graph up to the first error; raises nothing."""
    workspace = Workspace(len(data), is_archive=written_by_torch(data))
    names = Names(workspace.budget)
    workspace.operations = names.operations
    problem, root = None, None
    try:
        if written_by_torch(data):
            root = read_archive(memoryview(data), 0, names.table, workspace)
        else:
            root = run_pickle(Machine(memoryview(data), names.table, workspace))
    except (DamagedError, *DAMAGE_ERRORS) as error:
        problem = error_text(error)
    called, persistent = tuple(names.called), tuple(names.persistent)
    return Survey(root, names.known(True), names.known(False), called, persistent, problem)
