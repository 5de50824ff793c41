"""Files that attack a reader of pickles, and what becomes of them: `python hostile_pickles.py EMPTY_FOLDER`.

A process of its own has no checker of annotations, which would slow every operation, and shows its memory honestly.
"""

import copy
import dataclasses
import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import torch_utils.persistence
from gan_refine.errors import FileFormatError
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import build_discriminator, build_generator, build_teacher, describe, read_pickle, write_refined
from gan_refine.run.inspect import report as text_of

BAIT = "touch ran"  # makes a file in the current folder


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def blob(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def integer(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


SYSTEM = b"cos\nsystem\n"
COMMAND = text(BAIT)
HEADER = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
LOAD = b"ctorch.storage\n_load_from_bytes\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"

OS = b"cbuiltins\n__import__\n" + text("os") + b"\x85R"
GETATTR = b"cbuiltins\ngetattr\n" + OS + text("system") + b"\x86R"

LIVE = {  # Python's own pickle runs these
    "REDUCE": SYSTEM + COMMAND + b"\x85R",
    "STACK_GLOBAL": stack_global("os", "system") + COMMAND + b"\x85R",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o",
    "BUILD": b"ctypes\nSimpleNamespace\n)R}" + text("__setstate__") + SYSTEM + b"sb" + COMMAND + b"b",
    "dotted name": stack_global("os", "path.os.system") + COMMAND + b"\x85R",
    "getattr": GETATTR + COMMAND + b"\x85R",
    "exec": b"cbuiltins\nexec\n" + text(f"import os; os.system({BAIT!r})") + b"\x85R",
    "protocol 0": b"cos\nsystem\n(V" + BAIT.encode() + b"\ntR",
    "NEWOBJ_EX": b"cfunctools\npartial\n(" + SYSTEM + COMMAND + b"t}\x92)R",
    "inside a storage": LOAD + blob(b"\x80\x02" + SYSTEM + COMMAND + b"\x85R.") + b"\x85R",
    "inside a proper storage": LOAD + blob(HEADER + b"\x80\x02" + SYSTEM + COMMAND + b"\x85R.") + b"\x85R",
}


def in_gan(payload: bytes) -> bytes:
    """A pickle with the payload as the value of 'G_ema'."""
    return b"\x80\x04}" + text("G_ema") + payload + b"s."


def storage(count: int, present: int, dtype: str = "FloatStorage") -> bytes:
    """A storage that declares `count` numbers and holds `present` bytes."""
    identity = b"\x80\x02(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text("0") + text("cpu")
    identity += integer(count) + b"NtQ."
    payload = HEADER + identity + pickle.dumps(["0"], 2) + struct.pack("<q", count) + bytes(present)
    return LOAD + blob(payload) + b"\x85R"


def tensor(held: bytes, shape: list[int], stride: list[int], offset: int = 0) -> bytes:
    numbers = [b"(" + b"".join(map(integer, ns)) + b"t" for ns in (shape, stride)]
    return TENSOR + b"(" + held + integer(offset) + numbers[0] + numbers[1] + b"\x89NtR"


def array(shape: list[int], data: bytes, code: str = "f4") -> bytes:
    state = b"(K\x03" + text("<") + b"NNN" + integer(-1) + integer(-1) + b"K\x00t"
    dtype = b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R" + state + b"b"
    made = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return made + b"(K\x01(" + b"".join(map(integer, shape)) + b"t" + dtype + b"\x89" + blob(data) + b"tb"


def persistent(name: str, source: str, state: bytes = b"}") -> bytes:
    meta = {"type": text("class"), "version": b"K\x06", "module_src": text(source), "class_name": text(name)}
    items = b"".join(text(key) + value for key, value in (meta | {"state": state}).items())
    return PERSISTENT + b"}(" + items + b"u\x85R"


# {"_modules": {"mapping": A, "synthesis": A, "b4": A, "conv1": A}}, and that dict is the state of A as well
CIRCLE = b"}q\x00" + text("_modules") + b"}q\x01s0h\x01" + text("mapping") + persistent("A", "", b"h\x00")
CIRCLE += b"q\x02s" + b"".join(text(name) + b"h\x02s" for name in ("synthesis", "b4", "conv1")) + b"0h\x00"
SOURCE = f"import os; os.system({BAIT!r})\nclass Generator: pass\n"


def laughs(levels: int, width: int) -> bytes:
    """A list of `width` times the same list, and so on down: small in the file, endless to walk."""
    inner = b"]"
    for _ in range(levels):
        inner = b"](" + inner + b"2" * (width - 1) + b"e"
    return inner


def with_arguments(kwargs: bytes, mapping: bytes = b"}") -> bytes:
    """A generator, as far as one looks, with these constructor arguments and this state of its mapping network."""
    block = persistent("Block", "", b"}" + text("_modules") + b"}" + text("conv1") + persistent("Layer", "") + b"ss")
    synthesis = persistent("Net", "", b"}" + text("_modules") + b"}" + text("b4") + block + b"ss")
    modules = b"}(" + text("synthesis") + synthesis + text("mapping") + persistent("Map", "", mapping) + b"u"
    return persistent("Generator", "", b"}(" + text("_modules") + modules + text("_init_kwargs") + kwargs + b"u")


def overlapping(names: int, count: int) -> bytes:
    """A generator whose parameters are one tensor under many names, so that it seems to hold far more than the file."""
    kwargs = {"z_dim": 1 << 16, "c_dim": 0, "w_dim": 1 << 16, "img_resolution": 4, "img_channels": 3}
    given = b"}(" + b"".join(text(name) + integer(value) for name, value in kwargs.items()) + b"u"
    held = tensor(storage(count, 4 * count), [count], [1]) + b"q\x050"
    parameters = b"}(" + b"".join(text(f"p{index}") + b"h\x05" for index in range(names)) + b"u"
    return held + with_arguments(given + text("_parameters") + parameters)


def many_names(length: int, children: int) -> bytes:
    """A module under many names, which holds a tensor with a very long one."""
    child = persistent(
        "A", "", b"}" + text("_parameters") + b"}" + text("a" * length) + tensor(storage(1, 4), [1], [1]) + b"ss"
    )
    inner = b"".join(text(f"m{index}") + b"h\x05" for index in range(children))
    return child + b"q\x050" + with_arguments(b"}", b"}" + text("_modules") + b"}(" + inner + b"us")


def wide(count: int) -> bytes:
    """A table of modules that all hold one table of modules, which hold one table of modules, and so on."""
    table = b"}"
    for _ in range(4):
        child = persistent("A", "", b"}" + text("_modules") + table + b"s") + b"q\x050"
        table = child + b"}(" + b"".join(text(f"m{index}") + b"h\x05" for index in range(count)) + b"u"
    return table


def tensorflow(
    static: bytes = b"}", components: bytes = b"}", variables: bytes = b"]", version: bytes = b"K\x05"
) -> bytes:
    """A TensorFlow network whose fields are these."""
    fields = {"version": version, "static_kwargs": static, "components": components, "variables": variables}
    fields["build_module_src"] = text(SOURCE)
    state = b"}(" + b"".join(text(name) + value for name, value in fields.items()) + b"u"
    return b"cdnnlib.tflib.network\nNetwork\n)\x81q\x07" + state + b"b"


def tensorflow_file(network: bytes, protocol: bytes = b"\x80\x04") -> bytes:
    return protocol + network + b"2" + network + b"\x87."


def variable(name: str, value: bytes) -> bytes:
    return b"](" + text(name) + value + b"\x86e"


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    return LOAD + blob(stream.getvalue()) + b"\x85R"


def stored(count: int) -> bytes:
    """The structure of an archive that holds one storage of `count` numbers."""
    return (
        b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(count) + b"tQ."
    )


ENCODE = b"c_codecs\nencode\n"
LONG = b"(" + b"K\x01" * 30_000 + b"t"
OLD = b"\x80\x02}" + text("G_ema")  # the start of a file of protocol 2

FILES = {  # whole files
    "TensorFlow: nothing": tensorflow_file(tensorflow()),
    "TensorFlow: source": tensorflow_file(tensorflow(components=b"}" + text("a") + persistent("A", SOURCE) + b"s")),
    "TensorFlow: circle": tensorflow_file(tensorflow(components=b"}" + text("a") + b"h\x07s")),
    "TensorFlow: array of 2 TiB": tensorflow_file(tensorflow(variables=variable("a", array([1 << 39], b"abcd")))),
    "TensorFlow: endless list": tensorflow_file(tensorflow(variables=variable("a", laughs(60, 2)))),
    "TensorFlow: deep list": tensorflow_file(tensorflow(variables=variable("a", b"]" * 90_000 + b"a" * 89_999))),
    "TensorFlow: endless argument": tensorflow_file(tensorflow(b"}" + text("resample_kernel") + laughs(2, 200) + b"s")),
    "TensorFlow: a million layers": tensorflow_file(tensorflow(b"}" + text("mapping_layers") + integer(10**6) + b"s")),
    "TensorFlow: huge latents": tensorflow_file(tensorflow(b"}" + text("latent_size") + integer(10**6) + b"s")),
    "TensorFlow: doubling version": tensorflow_file(tensorflow(version=b"N" + b"2\x86" * 200)),
    "TensorFlow: long names": tensorflow_file(tensorflow(variables=variable("a" * 10**6, array([1], bytes(4))))),
    "TensorFlow: no numbers": tensorflow_file(tensorflow(b"]", b"]", b"}", b"N")),
    "TensorFlow: a tuple of others": b"\x80\x04K\x01K\x02K\x03\x87.",
    "TensorFlow: a pair": b"\x80\x04" + tensorflow() + b"2\x86.",
    "TensorFlow: protocol 0 command": b"(cos\nsystem\n(V" + BAIT.encode() + b"\ntRNNt.",
    "one text decoded 50,000 times": OLD
    + text("a" * 10**6)
    + b"q\x00"
    + (ENCODE + b"h\x00" + text("latin1") + b"\x86R0") * 50_000
    + b"Ns.",
    "text that no bytes are": OLD + ENCODE + text("\u20ac") + text("latin1") + b"\x86Rs.",
    "text in another code": OLD + ENCODE + text("a") + text("rot13") + b"\x86Rs.",
    "text in a later protocol": in_gan(ENCODE + text("a") + text("latin1") + b"\x86R"),
    "protocol 0: endless number": b"}VG_ema\nI" + b"9" * 10**6 + b"\ns.",
    "protocol 0: number of 200 digits": b"}VG_ema\nL" + b"9" * 200 + b"L\ns.",
    "protocol 0: endless float": b"}VG_ema\nF" + b"9" * 10**6 + b"\ns.",
    "protocol 0: text without end": b"}V" + b"a" * 10**6,
    "protocol 0: broken escape": b"}V\\u12\nNs.",
    "protocol 0: far memo": b"}p99999999999999999999\ng9\nNs.",
    "protocol 0: persistent id": b"}VG_ema\nP1\ns.",
    "protocol 0: many lines": b"}" + b"Va\n0" * 400_000 + b".",
    "protocol 1: string": b"}U\x04xxxxNs.",
}

HOSTILE = LIVE | {
    "NEWOBJ": b"csubprocess\nPopen\n" + COMMAND + b"\x85\x81",
    "dotted into an allowed name": stack_global("collections", "OrderedDict.__init__.__globals__"),
    "dotted module": stack_global("torch_utils.persistence.sys", "modules"),
    "name that is no text": b"K\x01K\x02\x93",
    "persistent id": COMMAND + b"Q",
    "extension registry": b"\x82\x01",
    "persistent source": persistent("Evil", SOURCE),
    "persistent source of a known name": persistent("Generator", SOURCE),
    "persistent version": PERSISTENT + b"}" + b"\x85R",
    "unknown class": b"ctorch.nn.modules.linear\nLinear\n)\x81",
    "storage of the other size": tensor(storage(4, 8), [4], [1]),
    "storage of 2 TiB": tensor(storage(1 << 39, 16), [1 << 39], [1]),
    "storage of a negative size": tensor(storage(-1, 16), [1], [1]),
    "tensor of 2 TiB": tensor(storage(4, 16), [1 << 39], [1]),
    "expanded tensor": tensor(storage(4, 16), [1 << 20, 1 << 19], [0, 0]),
    "tensor behind its storage": tensor(storage(4, 16), [2], [1], offset=3),
    "tensor with a stride beyond": tensor(storage(4, 16), [2], [4]),
    "tensor of negative stride": tensor(storage(4, 16), [2], [-1], offset=1),
    "tensor without storage": tensor(b"K\x01", [1], [1]),
    "array of 2 TiB": array([1 << 39], b"abcd"),
    "array of overflowing size": array([1 << 61, 8], b""),
    "array of objects": array([1], bytes(8), "O8"),
    "array of endless dimensions": array([1] * 200, bytes(4)),
    "bytes of 2 TiB": b"\x8e" + struct.pack("<Q", 1 << 41),
    "text of 2 TiB": b"\x8d" + struct.pack("<Q", 1 << 41),
    "integer of 2 GiB": b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    "integer of negative length": b"\x8b" + struct.pack("<i", -1),
    "decimal integer": b"I" + b"9" * 100_000 + b"\n",
    "memo far away": b"Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff",
    "deep list": b"]" * 1_000_000 + b"a" * 999_999,
    "deep list within the budget": b"]" * 200_000 + b"a" * 199_999,
    "deep tuple": b")" + b"\x85" * 500_000,
    "doubling key": b"}N" + b"2\x86" * 200 + b"Ns",
    "list copied into sets": b"]q\x00(" + b"K\x01" * 30_000 + b"e" + b"cbuiltins\nset\nh\x00\x85R0" * 30_000,
    "a dict as key": b"}}Ns",
    "a list that holds itself": b"]q\x00h\x00a",
    "memo of 400,000 values": b"N" + b"\x94" * 400_000,
    "memo by far indices": b"N" + b"".join(b"r" + struct.pack("<I", 10_000 * n) for n in range(100_000)),
    "lists in lists by memo": laughs(60, 2),
    "endless arguments": with_arguments(b"}" + text("mapping_kwargs") + laughs(2, 200) + b"s"),
    "endless tuple of arguments": with_arguments(b"}" + text("z_dim") + b"K\x01" + b"2\x86" * 200 + b"s"),
    "a long tuple as key, often": b"}q\x00" + LONG + b"q\x01" + b"0h\x00" + b"h\x01Ns" * 50_000,
    "a long shape, often": LONG + b"q\x010" + (TENSOR + b"(" + storage(4, 16) + b"K\x00h\x01h\x01\x89NtR0") * 900,
    "doubling module name": b"N" + b"2\x86" * 200 + text("a") + b"\x93",
    "doubling numpy type": b"cnumpy\ndtype\nN" + b"2\x86" * 200 + b"\x85R",
    "long names, often": many_names(100_000, 5_000),
    "many names, often": with_arguments(b"}", b"}" + text("_modules") + wide(300) + b"s"),
    "one storage under 900 names": overlapping(900, 1 << 18),
    "doubling byte order": b"cnumpy\ndtype\n" + text("f4") + b"\x85R(K\x03N" + b"2\x86" * 200 + b"NNNtb",
    "zip with a command": zipped({"data.pkl": b"\x80\x02" + SYSTEM + COMMAND + b"\x85R."}, zipfile.ZIP_STORED),
    "zip bomb": tensor(zipped({"data.pkl": stored(1 << 24), "data/0": bytes(1 << 26)}), [1 << 24], [1]),
    "zip of 2 TiB": tensor(zipped({"data.pkl": stored(1 << 39), "data/0": b""}, zipfile.ZIP_STORED), [1 << 39], [1]),
    "zip without storage": tensor(zipped({"data.pkl": stored(4)}, zipfile.ZIP_STORED), [4], [1]),
    "zip of many entries": zipped(dict.fromkeys(map(str, range(20_000)), b""), zipfile.ZIP_STORED),
    "zip in a zip": zipped({"data.pkl": b"\x80\x02" + LOAD + blob(b"PK") + b"\x85R."}, zipfile.ZIP_STORED),
    "modules in a circle": persistent("Generator", "", CIRCLE),
    "frame beyond the end": b"\x95" + struct.pack("<Q", 1 << 60) + b"N",
    "no operand": b"R",
    "no mark": b"t",
    "no global": b"cos",
    "no text": b"X\x02\x00\x00\x00\xff\xff",
    "protocol": b"\x80\x09N",
}


def small() -> bytes:
    """A proper file that is mostly structure: one network, with a short text in place of each source."""
    kwargs = {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 3}
    net = Generator(**kwargs, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_base": 8, "channel_max": 2})
    original, torch_utils.persistence.module_source = torch_utils.persistence.module_source, lambda cls: "source"
    try:
        data = io.BytesIO()
        pickle.dump({"G_ema": copy.deepcopy(net).eval().requires_grad_(False)}, data, protocol=4)
    finally:
        torch_utils.persistence.module_source = original
    return data.getvalue()


def cut() -> Iterator[bytes]:
    data = small()
    yield from (data[: part * len(data) // 200] for part in range(200))


def flipped(seeds: int) -> Iterator[bytes]:
    data = small()
    for seed in range(seeds):
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


def soup(seeds: int) -> Iterator[bytes]:
    """Random operations and allowed names."""
    operations = [bytes([code]) for code in b"\x8c(.0N\x88)]}\x8fKMqhreRb\x81\x85\x86\x87tasu\x90\x91\x93cQ\x92oi"]
    operations += [stack_global("collections", "OrderedDict"), stack_global("torch", "device"), text("a")]
    operations += [PERSISTENT, LOAD, b"cnumpy\ndtype\n", b"ccopyreg\n_reconstructor\n", b"cbuiltins\nset\n"]
    for seed in range(seeds):
        yield b"\x80\x04" + b"".join(random.Random(seed).choices(operations, k=40)) + b"."


def use(path: Path) -> None:
    """What a run does with a file."""
    file = read_pickle(path)
    build_discriminator(file)
    net = build_teacher(file) if "ema" in file.networks() else build_generator(file)
    write_refined(file, net.state_dict(), Path("out.pkl"))


def show(path: Path) -> None:
    """What `inspect` does with a file: its text and JSON are plain, and it raises nothing."""
    found = describe(path)
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    if not text_of(found).replace("\n", "").isprintable():
        raise ValueError("it prints control characters")


def reference_seconds() -> float:
    """Processor seconds of a fixed loop of two million turns, 0.2 on a fast machine: the unit in which files are judged."""
    start, numbers, table = time.process_time(), [], {}
    for number in range(2_000_000):
        table[number & 1023] = number
        numbers.append(number)
        if number & 7 == 7:
            numbers.clear()
    return time.process_time() - start


def verdict(data: bytes, action: Callable[[Path], None] = use) -> dict[str, object]:
    """What became of a file: 'opened', the message of our error or another one's name; processor time in `loops`, growth in KiB."""
    path = Path("hostile.pkl")
    path.write_bytes(data)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    outcome, message = "opened", ""
    try:
        action(path)
    except FileFormatError as error:
        outcome, message = "refused", str(error)
    except Exception as error:  # what the test looks for
        outcome, message = type(error).__name__, str(error)
    seconds = time.process_time() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Below a second nothing is 10 loops of at least 0.1 s. A comparison is made at once: the speed of a shared machine changes.
    loops = seconds / max(reference_seconds(), 0.1) if seconds > 1 else 0.0
    return {"outcome": outcome, "message": message, "loops": loops, "kib": growth, "ran": Path("ran").exists()}


def main(folder: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    groups = {"flipped": flipped(300), "soup": soup(300), "cut": cut()}
    report = {name: verdict(in_gan(payload)) for name, payload in HOSTILE.items()}
    report |= {name: verdict(data) for name, data in FILES.items()}
    whole = {name: in_gan(payload) for name, payload in HOSTILE.items()} | FILES
    whole |= {f"flipped {index}": data for index, data in enumerate(flipped(50))}
    whole |= {f"soup {index}": data for index, data in enumerate(soup(50))}
    report |= {f"inspect {name}": verdict(data, show) for name, data in whole.items()}
    for group, files in groups.items():
        report |= {f"{group} {index}": verdict(data) for index, data in enumerate(files)}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
