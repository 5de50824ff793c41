"""The operations of the pickle interpreter. Codes and arguments are those of Python's pickletools, protocols 0 to 5."""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Literal

from gan_refine.pickles.machine import Global, LocatedText, Machine, Operations, fill, members
from gan_refine.pickles.records import ArrayRecord, Blob, DamagedError, DtypeRecord, PlainObject

MAX_NAME = 256  # bytes of a module's or class's name
MAX_INTEGER = 64  # bytes of an integer: larger ones cost quadratic time to print
MAX_PROTOCOL = 5
LAST_TEXT_PROTOCOL = 2  # up to it, bytes are written as text
_STOP = b"."[0]
_DECIMAL = re.compile(r"[+-]?[0-9]{1,150}")
_BOOLEANS = {"00": False, "01": True}
_BYTE_ORDERS: Mapping[object, Literal["<", "|", "="]] = {"<": "<", "|": "|", "=": "="}


def run_pickle(machine: Machine) -> object:
    """The pickled value; `position` is then behind its STOP. Raises DamagedError for all but plain data and known names."""
    operations = machine.workspace.operations or OPERATIONS
    while True:
        opcode = machine.take(1)[0]
        machine.budget.spend(1)
        if opcode == _STOP:
            return machine.pop()
        operation = operations.get(opcode)
        if operation is None:
            raise DamagedError(f"operation {bytes([opcode])!r} at byte {machine.place - 1} is not allowed")
        operation(machine)


def _value(value: object) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _number(layout: str) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.number(layout))


def _integer(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        length = machine.number(layout)
        if not 0 <= length <= MAX_INTEGER:
            raise DamagedError(f"an integer of {length} bytes at byte {machine.place}")
        machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))

    return operation


def _name(machine: Machine) -> str:
    return machine.line(MAX_NAME).decode("utf-8")


def _decimal(machine: Machine) -> None:
    """INT and LONG of protocol 0: decimal digits, "00" and "01" for booleans, perhaps followed by L."""
    written = machine.line(MAX_NAME).decode("ascii").removesuffix("L")
    if written not in _BOOLEANS and not _DECIMAL.fullmatch(written):
        raise DamagedError(f"invalid digits before byte {machine.place}")
    machine.stack.append(_BOOLEANS[written] if written in _BOOLEANS else int(written))


def _index(machine: Machine) -> int:
    written = machine.line(MAX_NAME).decode("ascii")
    if not _DECIMAL.fullmatch(written):
        raise DamagedError(f"a memo index before byte {machine.place} is not a number")
    return int(written)


def _text(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        start = machine.place - 1
        value = bytes(machine.take(_length(machine, layout))).decode("utf-8", "surrogatepass")
        machine.stack.append(_located(machine, value, start) if layout == "<I" else value)

    return operation


def _text_line(machine: Machine) -> None:
    start = machine.place - 1
    value = machine.line(len(machine.data)).decode("raw-unicode-escape")
    machine.stack.append(_located(machine, value, start))


def _located(machine: Machine, value: str, start: int) -> str:
    """The text; with its place in the file if the protocol is one that writes bytes as text."""
    if machine.protocol > LAST_TEXT_PROTOCOL or (machine.base and not machine.workspace.is_archive):
        return value
    text = LocatedText(value)
    text.first, text.last, text.opcode = start, machine.place, chr(machine.data[start - machine.base])
    return text


def _bytes(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        length = _length(machine, layout)
        start = machine.place
        machine.stack.append(Blob(start, machine.take(length)))

    return operation


def _length(machine: Machine, layout: str) -> int:
    length = machine.number(layout)
    if length < 0:
        raise DamagedError(f"a negative length at byte {machine.place}")
    return length


def _packed(layout: str) -> Callable[[Machine], int]:
    return lambda machine: machine.number(layout)


def _put(index_of: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        machine.memo[index_of(machine)] = machine.top(object)

    return operation


def _get(index_of: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        index = index_of(machine)
        if index not in machine.memo:
            raise DamagedError(f"it reads memo entry {index}, which it never wrote")
        machine.stack.append(machine.memo[index])

    return operation


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top(object)


def _tuple(length: int) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        items = [machine.pop() for _ in range(length)]
        machine.stack.append(tuple(reversed(items)))

    return operation


def _append(machine: Machine) -> None:
    item = machine.pop()
    target = machine.top(list)
    assert isinstance(target, list), "top() checked it"
    target.append(item)


def _appends(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(list)
    assert isinstance(target, list), "top() checked it"
    target.extend(items)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    target = machine.top(dict)
    assert isinstance(target, dict), "top() checked it"
    fill(target, [(key, value)])


def _set_items(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(dict)
    assert isinstance(target, dict), "top() checked it"
    fill(target, _pairs(machine, items))


def _new_dict(machine: Machine) -> None:
    """DICT of protocol 0: keys and values since the mark."""
    result: dict[object, object] = {}
    fill(result, _pairs(machine, machine.pop_to_mark()))
    machine.stack.append(result)


def _pairs(machine: Machine, items: list[object]) -> list[tuple[object, object]]:
    if len(items) % 2:
        raise DamagedError(f"a key without a value at byte {machine.place - 1}")
    return list(zip(items[::2], items[1::2], strict=True))


def _add_items(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(set)
    assert isinstance(target, set), "top() checked it"
    target.update(members(items))


def _protocol(machine: Machine) -> None:
    version = machine.number("<B")
    if version > MAX_PROTOCOL:
        raise DamagedError(f"its protocol is {version}; known are those up to {MAX_PROTOCOL}")
    machine.protocol = version


def _global(machine: Machine) -> None:
    module = _name(machine)
    machine.stack.append(machine.look_up(module, _name(machine)))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(machine.look_up(module, name))


def _reduce(machine: Machine) -> None:
    """REDUCE and NEWOBJ: the constructor that the table has for the name, called with the file's arguments."""
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
        raise DamagedError(f"a call of something other than a known constructor at byte {machine.place - 1}")
    machine.budget.spend(len(arguments))
    machine.stack.append(function.call(machine, arguments))


def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top(object)
    if isinstance(target, PlainObject) and isinstance(state, dict):
        target.state = state
    elif isinstance(target, DtypeRecord) and isinstance(state, tuple):
        complete_dtype(target, state)
    elif isinstance(target, ArrayRecord) and isinstance(state, tuple):
        complete_array(target, state)
    elif not (isinstance(target, dict) and isinstance(state, dict)):  # attributes of a dict mean nothing here
        raise DamagedError(f"a {type(target).__name__} is given a {type(state).__name__} as its state")


def complete_dtype(target: DtypeRecord, state: tuple) -> None:
    if len(state) < 2 or not isinstance(state[1], str) or state[1] not in _BYTE_ORDERS:
        raise DamagedError("a numpy type is of the other byte order")
    if any(part is not None for part in state[2:5]):
        raise DamagedError("a numpy type is structured")
    target.byte_order = _BYTE_ORDERS[state[1]]


def complete_array(target: ArrayRecord, state: tuple) -> None:
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, Blob):
        raise DamagedError("a numpy array is not of plain numbers")
    set_array(target, dtype, shape, bool(fortran), data)


def set_array(target: ArrayRecord, dtype: DtypeRecord, shape: object, fortran: bool, data: Blob) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
        raise DamagedError("a numpy array has no proper shape")
    declared = dtype.dtype().itemsize
    for length in shape:
        declared *= length
    if declared != len(data.view):
        raise DamagedError(f"a numpy array of {declared} bytes is declared where {len(data.view)} are present")
    target.dtype, target.shape, target.fortran, target.data = dtype.dtype(), shape, fortran, data.view


def _persistent_id(machine: Machine) -> None:
    if machine.persistent_load is None:
        raise DamagedError(f"operation b'Q' at byte {machine.place - 1} is not allowed")
    machine.stack.append(machine.persistent_load(machine.pop()))


def _frame(machine: Machine) -> None:
    if _length(machine, "<Q") > len(machine.data) - machine.position:
        raise DamagedError(f"it is cut off at byte {machine.base + len(machine.data)}")


OPERATIONS: Operations = {
    ord(code): operation
    for code, operation in {
        "\x80": _protocol,
        "\x95": _frame,
        "0": lambda machine: machine.pop(),
        "1": lambda machine: machine.pop_to_mark(),
        "2": lambda machine: machine.stack.append(machine.top(object)),
        "(": lambda machine: machine.marks.append(len(machine.stack)),
        "N": _value(None),
        "\x88": _value(True),
        "\x89": _value(False),
        ")": _value(()),
        "]": lambda machine: machine.stack.append([]),
        "}": lambda machine: machine.stack.append({}),
        "l": lambda machine: machine.stack.append(machine.pop_to_mark()),
        "d": _new_dict,
        "\x8f": lambda machine: machine.stack.append(set()),
        "J": _number("<i"),
        "K": _number("<B"),
        "M": _number("<H"),
        "I": _decimal,
        "L": _decimal,
        "F": lambda machine: machine.stack.append(float(machine.line(MAX_NAME))),
        "G": lambda machine: machine.stack.append(struct.unpack(">d", machine.take(8))[0]),
        "\x8a": _integer("<B"),
        "\x8b": _integer("<i"),
        "\x8c": _text("<B"),
        "X": _text("<I"),
        "\x8d": _text("<Q"),
        "C": _bytes("<B"),
        "B": _bytes("<I"),
        "\x8e": _bytes("<Q"),
        "\x96": _bytes("<Q"),
        "V": _text_line,
        "p": _put(_index),
        "q": _put(_packed("<B")),
        "r": _put(_packed("<I")),
        "\x94": _memoize,
        "g": _get(_index),
        "h": _get(_packed("<B")),
        "j": _get(_packed("<I")),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "t": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
        "a": _append,
        "e": _appends,
        "s": _set_item,
        "u": _set_items,
        "\x90": _add_items,
        "\x91": lambda machine: machine.stack.append(frozenset(members(machine.pop_to_mark()))),
        "c": _global,
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _reduce,
        "b": _build,
        "Q": _persistent_id,
    }.items()
}
