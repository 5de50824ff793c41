"""Pickles: what is read, what is refused, and that a refined file differs only where it should.

Hostile files have tests of their own: test_hostile_pickles.py.
"""

import ast
import copy
import hashlib
import io
import lzma
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_refine import networks
from gan_refine.errors import FileFormatError
from gan_refine.generators import StyleGan2
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
from torch_utils.persistence import FORMER_SOURCES

SYNTHESIS = {"channel_base": 64, "channel_max": 8}
GENERATOR = {"z_dim": 8, "c_dim": 2, "w_dim": 8, "img_resolution": 8, "img_channels": 3}
UNET = {"model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}


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


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("numpy_core", [b"numpy._core.", b"numpy.core."])
def test_plain_values(tmp_path: Path, protocol: int, numpy_core: bytes) -> None:
    """Files of numpy 1 and 2; the lengths before names need mending where the protocol writes them."""
    array = np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3))
    held = {"array": array, "scalar": np.float32(1.5), "set": {1, 2}, "number": -(1 << 40), "text": "ü", "f": 0.5}
    held |= {"device": torch.device("cuda", 1), "size": torch.Size([1, 2]), "dtype": torch.float16}
    held |= {"ordered": OrderedDict(a=1)}
    data = pickle.dumps(held, protocol=protocol)
    for module in (b"multiarray", b"numeric"):
        old, new = b"numpy._core." + module, numpy_core + module
        data = data.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
        data = data.replace(b"c" + old, b"c" + new)
    unframed = data[:2] + data[11:] if protocol > 3 else data  # the frame's length is no longer right
    (tmp_path / "v.pkl").write_bytes(unframed)
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
    held = {"whole": base, "part": base[1, :, 1:3], "turned": base.permute(2, 0, 1), "one": base[0, 0, 1]}
    held |= {"none": base[:0], "empty": torch.zeros([0, 3], dtype=dtype)}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(held))
    file = read_pickle(tmp_path / "t.pkl")
    assert isinstance(file.root, dict)
    for name, tensor in held.items():
        assert torch.equal(file.tensor(file.root[name]), tensor)


def dump(protocol: int, **networks: Generator) -> bytes:
    return pickle.dumps({key: net.eval().requires_grad_(False) for key, net in networks.items()}, protocol)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    """Up to protocol 2 tensors are written as text: they are read from it and written back into it."""
    path, out, new = tmp_path / "g.pkl", tmp_path / "new.pkl", make_generator(9)
    path.write_bytes(dump(protocol, G=make_generator(1), G_ema=make_generator(2)))
    file = read_pickle(path)
    assert torch.equal(images(build_generator(file)), images(make_generator(2).eval()))
    write_refined(file, values(file, "G"), out, networks=["G"])
    assert out.read_bytes() == path.read_bytes()
    write_refined(file, new.state_dict(), out)
    assert torch.equal(images(build_generator(read_pickle(out))), images(new.eval()))
    for key, net in pickle.loads(out.read_bytes()).items():
        assert torch.equal(images(net), images(new.eval())), key


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_both_layouts_of_storages(tmp_path: Path, zipped: bool, protocol: int, function: str) -> None:
    """torch 1.7 writes the row of pickles; a zip archive inside a pickle is read as well, and so are tensors of four fields."""
    weight, stream = torch.arange(6, dtype=torch.float64), io.BytesIO()
    storage = torch.storage.TypedStorage(wrap_storage=weight.untyped_storage(), dtype=weight.dtype, _internal=True)
    torch.save(storage, stream, _use_new_zipfile_serialization=zipped)

    class Stored:
        def __reduce__(self) -> tuple:
            return torch.storage._load_from_bytes, (stream.getvalue(),)

    class Held:
        def __reduce__(self) -> tuple:
            more = (False, OrderedDict()) if function.endswith("v2") else ()
            return getattr(torch._utils, function), (Stored(), 1, (2, 2), (2, 1), *more)

    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"t": Held()}, protocol))
    file = read_pickle(tmp_path / "t.pkl")
    assert isinstance(file.root, dict)
    assert torch.equal(file.tensor(file.root["t"]), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))


def test_either_generator_is_refined_into_both(gan_path: Path, tmp_path: Path) -> None:
    generator = StyleGan2.load(gan_path, "G")
    assert torch.equal(images(generator.net), images(make_generator(1).eval()))
    generator.export(tmp_path / "new.pkl")
    for key in ("G", "G_ema"):
        assert torch.equal(images(build_generator(read_pickle(tmp_path / "new.pkl"), key)), images(generator.net))
    StyleGan2.load(gan_path).write_original(tmp_path / "first.pkl")
    assert (tmp_path / "first.pkl").read_bytes() == gan_path.read_bytes()
    StyleGan2.load(gan_path, "G").write_original(tmp_path / "first.pkl")
    assert (tmp_path / "first.pkl").read_bytes() == (tmp_path / "new.pkl").read_bytes()


def former_files() -> dict[str, bytes]:
    """Pickles with earlier sources of networks/stylegan2.py: one of each digest in FORMER_SOURCES."""
    golden = sorted((Path(__file__).parent / "golden").glob("former_stylegan2_*.pkl.xz"))
    return {path.name: lzma.decompress(path.read_bytes()) for path in golden}


@pytest.mark.parametrize("name", former_files())
def test_pickles_with_former_sources_open_and_are_written_to_the_byte(name: str, tmp_path: Path) -> None:
    data = former_files()[name]
    (tmp_path / "gan.pkl").write_bytes(data)
    generator = StyleGan2.load(tmp_path / "gan.pkl")
    unpickled = pickle.loads(data)["G_ema"]
    assert type(unpickled) is Generator
    latents = generator.draw(2, torch.Generator().manual_seed(0))
    constant = {"noise_mode": "const", "force_fp32": True}
    assert torch.equal(
        unpickled(latents.z, latents.labels, **constant), generator.net(latents.z, latents.labels, **constant)
    )
    file = read_pickle(tmp_path / "gan.pkl")
    write_refined(file, generator.net.state_dict(), tmp_path / "again.pkl", ["G_ema"])
    assert (tmp_path / "again.pkl").read_bytes() == data


def test_there_is_a_file_for_every_former_source(tmp_path: Path) -> None:
    digests = set()
    for data in former_files().values():
        (tmp_path / "gan.pkl").write_bytes(data)
        source = read_pickle(tmp_path / "gan.pkl").networks()["G_ema"].module_src
        digests.add(hashlib.sha256(source.encode()).hexdigest())
    assert digests == FORMER_SOURCES["gan_refine.networks.stylegan2"]


def test_generators_of_two_sizes_are_refused_before_refinement(tmp_path: Path) -> None:
    small = Generator(**GENERATOR, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=SYNTHESIS)
    write_networks(tmp_path / "g.pkl", {"G": small, "G_ema": make_generator(1)})
    with pytest.raises(FileFormatError, match=r"cannot take refined weights: they have the unknown mapping.fc1"):
        StyleGan2.load(tmp_path / "g.pkl")


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
    net.synthesis.b8.conv1.affine.weight = net.synthesis.b8.conv0.affine.weight
    other = copy.deepcopy(net)
    write_networks(tmp_path / "tied.pkl", {"G_ema": net})
    file = read_pickle(tmp_path / "tied.pkl")
    with pytest.raises(FileFormatError, match="shares its memory"):
        write_refined(file, weights, tmp_path / "new.pkl")
    other.synthesis.b8.conv0.affine.weight.data.add_(1)
    other.mapping.fc0.weight.data.add_(1)
    write_refined(file, other.state_dict(), tmp_path / "new.pkl")
    assert torch.equal(images(build_generator(read_pickle(tmp_path / "new.pkl"))), images(other.eval()))
    both = copy.deepcopy({"G_ema": net.eval().requires_grad_(False), "loss": None})
    (tmp_path / "shared.pkl").write_bytes(pickle.dumps(both | {"loss": both["G_ema"].mapping}))
    with pytest.raises(FileFormatError, match="outside of the networks"):
        write_refined(read_pickle(tmp_path / "shared.pkl"), other.state_dict(), tmp_path / "new2.pkl")


def test_an_expanded_tensor_takes_no_weights(tmp_path: Path) -> None:
    generator = make_generator()
    generator.mapping.fc0.bias.data = torch.zeros([8, 2]).t()[:1].expand(8, 8)[:, 0]
    write_networks(tmp_path / "g.pkl", {"G_ema": make_generator()})
    pickled = {"G_ema": generator.eval().requires_grad_(False)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(pickled))
    with pytest.raises(FileFormatError, match=r"mapping\.fc0\.bias holds one number for several elements"):
        StyleGan2.load(tmp_path / "x.pkl")
    StyleGan2.load(tmp_path / "g.pkl")


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
            assert {alias.name.partition(".")[0] for alias in node.names} <= {
                "functools",
                "math",
                "numpy",
                "torch",
            }
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("__future__", "torch_utils", "torch_utils.ops", "collections.abc", "typing")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PUBLISHED:
            assert node.attr in PUBLISHED[node.value.id]


# ---- what is refused: honest mistakes


def test_mistaken_files(tmp_path: Path) -> None:
    cases = {"text": b"<html>404</html>", "empty": b"", "number": pickle.dumps(3), "odd": pickle.dumps({1: 2})}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        assert "expected a StyleGAN2-ADA" in refused(tmp_path / name)
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pkl")
    assert "is a state dict of 1 tensors" in refused(tmp_path / "state.pkl")
    assert "does not exist" in refused(tmp_path / "missing.pkl")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "tf.pkl").write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n.")
    assert "not networks by name" in refused(tmp_path / "tf.pkl")


def test_swapped_files(gan_path: Path, teacher_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"is an EDM teacher \(EDMPrecond\); pass it as --teacher"):
        build_generator(read_pickle(teacher_path))
    with pytest.raises(FileFormatError, match=r"is a GAN .*; pass it as --gan"):
        build_teacher(read_pickle(gan_path))
    with pytest.raises(FileFormatError, match=r"has no network 'E': it holds G \(a Generator\), D"):
        build_generator(read_pickle(gan_path), "E")
    with pytest.raises(FileFormatError, match="D is of class Discriminator"):
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
        (lambda net: net.mapping.register_buffer("w_avg", torch.zeros(5)), "has in another shape mapping.w_avg"),
        (lambda net: net._init_kwargs.update(colour=3), "colour"),
        (lambda net: net._init_kwargs.update(img_resolution=12), "power of two"),
        (lambda net: net.__dict__.pop("_init_kwargs"), "does not fit"),
        (lambda net: net._init_kwargs.update(z_dim=1 << 30), "z_dim is larger"),
        (lambda net: net._init_kwargs.update(z_dim=1 << 20), "more numbers than the file holds"),
        (lambda net: net._init_kwargs.update(mapping_kwargs={"num_layers": 1 << 20}), "more numbers"),
        (
            lambda net: net._init_kwargs.update(synthesis_kwargs={"resample_filter": [1] * 9999}),
            "resample_filter is larger",
        ),
        (lambda net: net._init_kwargs.update(synthesis_kwargs={"channel_max": 1 << 20}), "more numbers"),
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
