"""Pickles: what is read, what is refused, and that a refined file differs only where it should.

The hostile files are built here. Where Python's own pickle would run one, a test shows that it does, so that the bait is live.
"""

import ast
import contextlib
import copy
import io
import pickle
import random
import resource
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_utils.persistence
from gan_refine import networks
from gan_refine.errors import FileFormatError
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import (
    ArrayRecord,
    PickleFile,
    build_generator,
    build_teacher,
    named_tensors,
    read_pickle,
    write_networks,
    write_refined,
)

SYNTHESIS = {"channel_base": 64, "channel_max": 8}
GENERATOR = {"z_dim": 8, "c_dim": 2, "w_dim": 8, "img_resolution": 8, "img_channels": 3}
UNET = {"model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}
BAIT = "touch ran"  # tests with hostile files run in a folder of their own


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_generator(seed: int = 0, **kwargs: object) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Generator(**GENERATOR, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=SYNTHESIS | kwargs)
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def make_teacher(name: str, **kwargs: object) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PRECONDITIONINGS[name](img_resolution=8, img_channels=1, label_dim=2, **UNET, **kwargs)
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def gan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gan") / "gan.pkl"
    discriminator = Discriminator(c_dim=2, img_resolution=8, img_channels=3, channel_base=64, channel_max=8)
    parts = {"G": make_generator(1), "D": discriminator, "G_ema": make_generator(2)}
    write_networks(path, parts | {"training_set_kwargs": {"path": "x.zip", "use_labels": True}, "augment_pipe": None})
    return path


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.pkl"
    write_networks(path, {"ema": make_teacher("EDMPrecond", model_type="SongUNet")})
    return path


def images(net: torch.nn.Module) -> torch.Tensor:
    z = torch.randn([3, 8], generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return net(z, torch.eye(2)[[0, 1, 0]], noise_mode="const")


def values(file: PickleFile, key: str) -> dict[str, torch.Tensor]:
    return {name: file.tensor(record) for name, record in named_tensors(file.networks()[key]).items()}


def refused(path: Path) -> str:
    """The one-line message with which the file is refused, whether at reading or at building."""
    with pytest.raises(FileFormatError) as caught:
        file = read_pickle(path)
        if "ema" in file.networks():
            build_teacher(file)
        build_generator(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert str(path) in message
    return message


# ---- what is read


def test_generator_gives_the_same_images(gan_path: Path) -> None:
    file = read_pickle(gan_path)
    assert torch.equal(images(build_generator(file)), images(make_generator(2).eval()))
    assert torch.equal(images(build_generator(file, "G")), images(make_generator(1).eval()))
    built = build_generator(file)
    assert not built.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in built.parameters())


def test_plain_pickle_load_opens_our_files(gan_path: Path) -> None:
    assert torch.equal(images(pickle.loads(gan_path.read_bytes())["G_ema"]), images(make_generator(2).eval()))


@pytest.mark.parametrize("name", list(PRECONDITIONINGS))
@pytest.mark.parametrize("model", ["SongUNet", "DhariwalUNet"])
def test_teacher_denoises_the_same(tmp_path: Path, name: str, model: str) -> None:
    teacher = make_teacher(name, model_type=model)
    write_networks(tmp_path / "t.pkl", {"ema": teacher})
    built = build_teacher(read_pickle(tmp_path / "t.pkl"))
    arguments = torch.randn([2, 1, 8, 8]), torch.tensor([0.3, 2.0]), torch.eye(2)
    with torch.no_grad():
        assert torch.equal(built(*arguments), teacher(*arguments))


def test_structure_counts_where_arguments_are_silent(tmp_path: Path) -> None:
    """StyleGAN3's edition of StyleGAN2 has other defaults and flat arguments; its networks say what they are."""
    net = make_generator(3, conv_clamp=0.5, num_fp16_res=1)
    flat = {"channel_base": 64, "channel_max": 8, "fused_modconv_default": "inference_only"}
    net.__dict__["_init_kwargs"] = GENERATOR | {"mapping_kwargs": {"num_layers": 2}} | flat
    write_networks(tmp_path / "g.pkl", {"G_ema": net})
    built = build_generator(read_pickle(tmp_path / "g.pkl"))
    assert torch.equal(images(built), images(net.eval()))
    assert [built.synthesis.b4.use_fp16, built.synthesis.b8.use_fp16] == [False, True]


def test_building_leaves_the_callers_randomness(gan_path: Path) -> None:
    before = torch.get_rng_state()
    build_generator(read_pickle(gan_path))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("numpy_core", [b"numpy._core.", b"numpy.core."])
def test_plain_values(tmp_path: Path, protocol: int, numpy_core: bytes) -> None:
    """Files of numpy 1 and 2; the lengths before names need mending where the protocol writes them."""
    array = np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3))
    held = {
        "array": array,
        "scalar": np.float32(1.5),
        "set": {1, 2},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    held |= {
        "device": torch.device("cuda", 1),
        "ordered": OrderedDict(a=1),
        "number": -(1 << 40),
        "text": "ü",
        "f": 0.5,
    }
    data = pickle.dumps(held, protocol=protocol)
    for module in (b"multiarray", b"numeric"):
        old, new = b"numpy._core." + module, numpy_core + module
        data = data.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new).replace(
            b"c" + old, b"c" + new
        )
    (tmp_path / "v.pkl").write_bytes(
        data[:2] + data[11:] if protocol > 3 else data
    )  # 11: without the frame, whose length changed
    read = read_pickle(tmp_path / "v.pkl").root
    assert isinstance(read, dict)
    assert isinstance(read["array"], ArrayRecord)
    assert np.array_equal(read["array"].array(), array)
    assert (read["scalar"], read["set"], read["size"], read["dtype"]) == (1.5, {1, 2}, (1, 2), torch.float16)
    assert (read["device"], read["ordered"], read["number"]) == (torch.device("cuda", 1), {"a": 1}, -(1 << 40))
    assert (read["text"], read["f"]) == ("ü", 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_tensors_of_every_layout(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    held = {
        "whole": base,
        "part": base[1, :, 1:3],
        "turned": base.permute(2, 0, 1),
        "none": base[:0],
        "one": base[0, 0, 1],
    }
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(held))
    file = read_pickle(tmp_path / "t.pkl")
    assert isinstance(file.root, dict)
    for name, tensor in held.items():
        assert torch.equal(file.tensor(file.root[name]), tensor)


# ---- what is written


def test_identical_weights_leave_every_byte(gan_path: Path, tmp_path: Path) -> None:
    file = read_pickle(gan_path)
    for key in ("G", "G_ema"):
        write_refined(file, values(file, key), tmp_path / "same.pkl", networks=[key])
        assert (tmp_path / "same.pkl").read_bytes() == gan_path.read_bytes()


def test_refined_file_differs_only_in_the_generators(gan_path: Path, tmp_path: Path) -> None:
    file, new = read_pickle(gan_path), make_generator(9)
    write_refined(file, new.state_dict(), tmp_path / "new.pkl")
    written = read_pickle(tmp_path / "new.pkl")
    for key in ("G", "G_ema"):
        assert torch.equal(images(build_generator(written, key)), images(new.eval()))
    for name, tensor in values(file, "D").items():
        assert torch.equal(values(written, "D")[name], tensor)
    for key, net in file.networks().items():
        assert written.networks()[key].module_src == net.module_src
    assert isinstance(written.root, dict)
    assert written.root["training_set_kwargs"] == {"path": "x.zip", "use_labels": True}
    assert len(written.data) == len(file.data)


def test_refined_file_keeps_dtypes(tmp_path: Path) -> None:
    write_networks(tmp_path / "half.pkl", {"G_ema": make_generator(1).half()})
    file = read_pickle(tmp_path / "half.pkl")
    write_refined(file, make_generator(2).state_dict(), tmp_path / "new.pkl")
    written = values(read_pickle(tmp_path / "new.pkl"), "G_ema")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    assert torch.equal(written["mapping.fc0.weight"], make_generator(2).mapping.fc0.weight.half())


def test_parameters_are_due_and_buffers_are_not(gan_path: Path, tmp_path: Path) -> None:
    file, new = read_pickle(gan_path), make_generator(9)
    write_refined(file, dict(new.named_parameters()), tmp_path / "new.pkl")
    written = values(read_pickle(tmp_path / "new.pkl"), "G_ema")
    assert torch.equal(written["mapping.w_avg"], values(file, "G_ema")["mapping.w_avg"])
    weights = new.state_dict()
    cases = {
        "no mapping.fc0.weight": {name: w for name, w in weights.items() if name != "mapping.fc0.weight"},
        "the unknown extra": weights | {"extra": torch.zeros(1)},
        r"mapping.fc0.bias is \[8\] in the file, got \[9\]": weights | {"mapping.fc0.bias": torch.zeros(9)},
    }
    for message, wrong in cases.items():
        with pytest.raises(FileFormatError, match=message):
            write_refined(file, wrong, tmp_path / "wrong.pkl")
    assert not (tmp_path / "wrong.pkl").exists()


def test_shared_memory_is_never_changed_behind_a_name(tmp_path: Path) -> None:
    net = make_generator(1)
    weights = net.state_dict()
    net.mapping.fc1.weight = net.mapping.fc0.weight
    other = copy.deepcopy(net)
    write_networks(tmp_path / "tied.pkl", {"G_ema": net})
    file = read_pickle(tmp_path / "tied.pkl")
    with pytest.raises(FileFormatError, match="shares its memory"):
        write_refined(file, weights, tmp_path / "new.pkl")
    other.mapping.fc0.weight.data.add_(1)
    write_refined(file, other.state_dict(), tmp_path / "new.pkl")
    assert torch.equal(images(build_generator(read_pickle(tmp_path / "new.pkl"))), images(other.eval()))
    both = copy.deepcopy({"G_ema": net.eval().requires_grad_(False), "loss": None})
    (tmp_path / "shared.pkl").write_bytes(pickle.dumps(both | {"loss": both["G_ema"].mapping}))
    with pytest.raises(FileFormatError, match="outside of the networks"):
        write_refined(read_pickle(tmp_path / "shared.pkl"), other.state_dict(), tmp_path / "new2.pkl")


def test_written_modules_are_copies(tmp_path: Path) -> None:
    net = make_generator(1).train()
    write_networks(tmp_path / "g.pkl", {"G_ema": net})
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(record.requires_grad for record in read_pickle(tmp_path / "g.pkl").tensors)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "g.pkl"
    path.write_bytes(b"old")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write_networks(path, {"G_ema": make_generator(1), "training_set_kwargs": {"f": lambda: 0}})
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.pkl"]
    assert path.read_bytes() == b"old"
    with pytest.raises(FileFormatError, match="cannot be written"):
        write_networks(tmp_path / "absent" / "g.pkl", {"G_ema": None})


PUBLISHED = {
    "misc": {"assert_shape", "profiled_function", "suppress_tracer_warnings"},
    "persistence": {"persistent_class"},
    "conv2d_resample": {"conv2d_resample"},
    "upfirdn2d": {"setup_filter", "upsample2d", "downsample2d"},
    "bias_act": {"bias_act", "activation_funcs"},
    "fma": {"fma"},
}


@pytest.mark.parametrize("name", ["stylegan2", "edm_precond", "edm_unet"])
def test_embedded_sources_use_published_names_only(name: str) -> None:
    """A source is run by the tools that users have, beside their torch_utils: it may use nothing that is not there."""
    tree = ast.parse((Path(networks.__file__).parent / f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= {"math", "numpy", "torch"}
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("__future__", "torch_utils", "torch_utils.ops", "collections.abc", "typing")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PUBLISHED:
            assert node.attr in PUBLISHED[node.value.id]


# ---- what is refused: honest mistakes


def test_mistaken_files(tmp_path: Path) -> None:
    cases = {
        "text.pkl": b"<html>404</html>",
        "empty.pkl": b"",
        "number.pkl": pickle.dumps(3),
        "odd.pkl": pickle.dumps({1: 2}),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        assert "wanted is a StyleGAN2-ADA" in refused(tmp_path / name)
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pkl")
    assert "zip file" in refused(tmp_path / "state.pkl")
    assert "does not exist" in refused(tmp_path / "missing.pkl")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "tf.pkl").write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n.")
    assert "TensorFlow" in refused(tmp_path / "tf.pkl")


def test_swapped_files(gan_path: Path, teacher_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"is an EDM teacher \(EDMPrecond\); pass it as --teacher"):
        build_generator(read_pickle(teacher_path))
    with pytest.raises(FileFormatError, match="is a GAN .*; pass it as --gan"):
        build_teacher(read_pickle(gan_path))
    with pytest.raises(FileFormatError, match=r"has no network 'E'; its networks: G, D, G_ema"):
        build_generator(read_pickle(gan_path), "E")
    with pytest.raises(FileFormatError, match="D is a Discriminator"):
        build_generator(read_pickle(gan_path), "D")


def test_alias_free_generator_is_refused(tmp_path: Path) -> None:
    net = make_generator(1)
    net.synthesis.input = torch.nn.ModuleList()
    write_networks(tmp_path / "sg3.pkl", {"G_ema": net})
    assert "StyleGAN3's alias-free Generator" in refused(tmp_path / "sg3.pkl")


def change_weight(net: Generator, name: str, value: torch.Tensor | None) -> None:
    net.mapping._parameters.pop(name, None)
    if value is not None:
        net.mapping._parameters[name] = torch.nn.Parameter(value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda net: change_weight(net, "more", torch.zeros(1)), "has the unknown mapping.more"),
        (lambda net: net.mapping.fc1._parameters.pop("weight"), "lacks mapping.fc1.weight"),
        (
            lambda net: setattr(net.mapping.fc1, "bias", torch.nn.Parameter(torch.zeros(5))),
            "in another shape mapping.fc1",
        ),
        (lambda net: net._init_kwargs.update(colour=3), "colour"),
        (lambda net: net._init_kwargs.update(img_resolution=12), "power of two"),
        (lambda net: net.__dict__.pop("_init_kwargs"), "does not fit"),
        (lambda net: net._init_kwargs.update(z_dim=1 << 30), "more numbers than the file holds"),
        (
            lambda net: net._init_kwargs.update(mapping_kwargs={"num_layers": 1 << 40}),
            "more numbers than the file holds",
        ),
        (
            lambda net: net._init_kwargs.update(synthesis_kwargs={"channel_max": 1 << 20, "channel_base": 1 << 30}),
            "more num",
        ),
    ],
)
def test_weights_and_arguments_must_fit(tmp_path: Path, edit: Callable[[Generator], object], message: str) -> None:
    net = make_generator(1)
    edit(net)
    write_networks(tmp_path / "g.pkl", {"G_ema": net})
    start = time.perf_counter()
    assert message in refused(tmp_path / "g.pkl")
    assert time.perf_counter() - start < 3


def test_unknown_attributes_are_tolerated(tmp_path: Path) -> None:
    net = make_generator(1)
    net.synthesis.__dict__ |= {"_future_hooks": OrderedDict(), "_future_flag": {1, 2}}
    del net.mapping.__dict__["_backward_hooks"]
    write_networks(tmp_path / "g.pkl", {"G_ema": net.eval()})
    build_generator(read_pickle(tmp_path / "g.pkl"))


# ---- what is refused: hostile files


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
PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"

LIVE = {  # Python's own pickle runs these
    "REDUCE": SYSTEM + COMMAND + b"\x85R",
    "STACK_GLOBAL": stack_global("os", "system") + COMMAND + b"\x85R",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o",
    "BUILD": b"ctypes\nSimpleNamespace\n)R}" + text("__setstate__") + SYSTEM + b"sb" + COMMAND + b"b",
    "dotted name": stack_global("os", "path.os.system") + COMMAND + b"\x85R",
    "getattr": b"cbuiltins\ngetattr\ncos\n__dict__\n"
    + text("get")
    + b"\x86R"
    + text("system")
    + b"\x85R"
    + COMMAND
    + b"\x85R",
    "exec": b"cbuiltins\nexec\n" + text(f"import os; os.system({BAIT!r})") + b"\x85R",
    "inside a storage": LOAD + blob(b"\x80\x02" + SYSTEM + COMMAND + b"\x85R.") + b"\x85R",
    "inside a proper storage": LOAD + blob(HEADER + b"\x80\x02" + SYSTEM + COMMAND + b"\x85R.") + b"\x85R",
}


def storage(count: int, present: int, dtype: str = "FloatStorage") -> bytes:
    """A storage that declares `count` numbers and holds `present` bytes."""
    identity = b"\x80\x02(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text("0") + text("cpu")
    identity += integer(count) + b"NtQ."
    payload = HEADER + identity + pickle.dumps(["0"], 2) + struct.pack("<q", count) + bytes(present)
    return LOAD + blob(payload) + b"\x85R"


def tensor(held: bytes, shape: list[int], stride: list[int], offset: int = 0) -> bytes:
    numbers = [b"(" + b"".join(map(integer, ns)) + b"t" for ns in (shape, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + integer(offset) + numbers[0] + numbers[1] + b"\x89NtR"


def array(shape: list[int], data: bytes, code: str = "f4") -> bytes:
    dtype = (
        b"cnumpy\ndtype\n"
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    made = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return made + b"(K\x01(" + b"".join(map(integer, shape)) + b"t" + dtype + b"\x89" + blob(data) + b"tb"


def persistent(name: str, source: str, state: bytes = b"}") -> bytes:
    meta = {
        "type": b"X\x05\x00\x00\x00class",
        "version": b"K\x06",
        "module_src": text(source),
        "class_name": text(name),
    }
    items = b"".join(text(key) + value for key, value in (meta | {"state": state}).items())
    return PERSISTENT + b"}(" + items + b"u\x85R"


SOURCE = f"import os; os.system({BAIT!r})\nclass Generator: pass\n"

HOSTILE = LIVE | {
    "NEWOBJ": b"csubprocess\nPopen\n" + COMMAND + b"\x85\x81",
    "NEWOBJ_EX": b"csubprocess\nPopen\n" + COMMAND + b"\x85}\x92",
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
    "tensor before its storage": tensor(storage(4, 16), [2], [-1], offset=1),
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
    "half as deep list": b"]" * 400_000 + b"a" * 399_999,
    "deep tuple": b")" + b"\x85" * 500_000,
    "doubling key": b"}N" + b"2\x86" * 200 + b"Ns",
    "list copied into sets": b"]q\x00(" + b"K\x01" * 30_000 + b"e" + b"cbuiltins\nset\nh\x00\x85R0" * 30_000,
    "a dict as key": b"}}Ns",
    "a list that holds itself": b"]q\x00h\x00a",
    "modules in a circle": b"}"
    + text("G_ema")
    + persistent("Generator", "", b"}q\x00" + text("_modules") + b"h\x00s")
    + b"s",
    "frame beyond the end": b"\x95" + struct.pack("<Q", 1 << 60) + b"N",
    "no operand": b"R",
    "no mark": b"t",
    "no global": b"cos",
    "no text": b"X\x02\x00\x00\x00\xff\xff",
    "protocol": b"\x80\x09N",
}


def in_gan(payload: bytes) -> bytes:
    """A pickle with the payload as the value of 'G_ema'."""
    return b"\x80\x04}" + text("G_ema") + payload + b"s."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", LIVE)
def test_the_bait_is_live(folder: Path, name: str) -> None:
    with contextlib.suppress(Exception):
        pickle.loads(in_gan(LIVE[name]))
    assert (folder / "ran").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_quickly_and_nothing_runs(folder: Path, name: str) -> None:
    (folder / "hostile.pkl").write_bytes(in_gan(HOSTILE[name]))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused(folder / "hostile.pkl")
    assert time.perf_counter() - start < 3  # one, with room for a busy machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # kilobytes
    assert not (folder / "ran").exists()


def test_message_shows_names_without_control_characters(folder: Path) -> None:
    (folder / "hostile.pkl").write_bytes(in_gan(stack_global("a\nb\x1b[31m", "c" * 10_000)))
    assert len(refused(folder / "hostile.pkl")) < 600


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A proper file that is mostly structure: one network, with a short text in place of each source."""
    path = tmp_path_factory.mktemp("small") / "small.pkl"
    sizes = GENERATOR | {"z_dim": 2, "w_dim": 2, "img_resolution": 4}
    net = Generator(**sizes, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_base": 8, "channel_max": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_utils.persistence, "module_source", lambda cls: "source")
        data = io.BytesIO()
        pickle.dump({"G_ema": net.eval().requires_grad_(False)}, data, protocol=4)
    path.write_bytes(data.getvalue())
    build_generator(read_pickle(path))
    return data.getvalue()


def test_cut_files(small: bytes, gan_path: Path, tmp_path: Path) -> None:
    for data in (small, gan_path.read_bytes()):
        for part in range(100):
            (tmp_path / "cut.pkl").write_bytes(data[: part * len(data) // 100])
            refused(tmp_path / "cut.pkl")


def opens_or_is_refused(path: Path) -> bool:
    """True when it opens; any other error than ours fails the test."""
    try:
        file = read_pickle(path)
        net = build_generator(file)
        write_refined(file, net.state_dict(), path.with_name("out.pkl"))
    except FileFormatError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_flipped_bytes(small: bytes, folder: Path) -> None:
    opened = 0
    for seed in range(400):
        rng = random.Random(seed)
        data = bytearray(small)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / "flipped.pkl").write_bytes(data)
        opened += opens_or_is_refused(folder / "flipped.pkl")
    assert 0 < opened < 400  # flips inside weights are values like others


def test_random_operations(folder: Path) -> None:
    operations = [bytes([code]) for code in b"\x80\x8c(.0N\x88)]}\x8fKMqhreRb\x81\x85\x86\x87tasu\x90\x91\x93cQ\x92oi"]
    operations += [
        stack_global("collections", "OrderedDict"),
        stack_global("torch", "device"),
        PERSISTENT,
        LOAD,
        text("a"),
    ]
    operations += [b"cnumpy\ndtype\n", b"ccopyreg\n_reconstructor\n", b"cbuiltins\nset\n", b"ctorch\nSize\n"]
    for seed in range(1000):
        rng = random.Random(seed)
        soup = b"".join(rng.choices(operations, k=40))
        (folder / "soup.pkl").write_bytes(b"\x80\x04" + soup + b".")
        opens_or_is_refused(folder / "soup.pkl")
