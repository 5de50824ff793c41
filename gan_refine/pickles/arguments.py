"""Constructor arguments from untrusted files, as plain values of bounded size."""

import numpy as np

from gan_refine.pickles.machine import Budget
from gan_refine.pickles.records import ArrayRecord, DamagedError

MAX_INTEGER = 1 << 20  # the largest published is channel_base = 65536
MAX_LENGTH = 256  # of a list, a text or a dict
MAX_DEPTH = 4
MAX_VALUES = 10_000  # altogether: a list that is held many times counts each time


def plain_arguments(value: object, name: str) -> object:
    """`value` as numbers, strings, lists and dicts of plain Python. Raises DamagedError, which names the argument."""
    return _plain(value, name, 0, Budget(MAX_VALUES))


def _key(key: object) -> object:
    """Texts of the reader remember their place; arguments that are pickled again must be plain ones."""
    return str(key) if isinstance(key, str) else key


def _plain(value: object, name: str, depth: int, budget: Budget) -> object:
    budget.left -= 1
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, ArrayRecord):
        value = value.array().tolist() if value.array().size <= MAX_LENGTH else value
    length = len(value) if isinstance(value, list | tuple | dict | str) else 0
    too_large = length > MAX_LENGTH or (isinstance(value, int) and abs(value) > MAX_INTEGER)
    if too_large or depth > MAX_DEPTH or budget.left < 0:
        raise DamagedError(f"the constructor's argument {name} is larger than that of any network")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name, depth + 1, budget) for item in value]
    if isinstance(value, dict):
        return {_key(key): _plain(item, str(key), depth + 1, budget) for key, item in value.items()}
    raise DamagedError(f"the constructor's argument {name} is a {type(value).__name__}")
