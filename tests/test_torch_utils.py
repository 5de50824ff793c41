"""torch_utils.misc and torch_utils.persistence."""

import copy
import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch

from torch_utils import misc, persistence


@persistence.persistent_class
class Scale(torch.nn.Module):
    """A network of one weight."""

    def __init__(self, size: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full([size], start))
        self.register_buffer("shift", torch.arange(float(size)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.shift


@persistence.persistent_class
class Twice(Scale):
    """A persistent class made from a persistent class."""

    def __init__(self, size: int) -> None:
        super().__init__(size, start=2.0)


@persistence.persistent_class
class Tagged:
    """A persistent class that is not a module and restores itself."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.restored = False

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.restored = True


def foreign_meta(marker: Path, **changes: object) -> dict:
    """What a published loader would get from a file whose embedded source writes `marker` as soon as it is executed."""
    source = f"open({str(marker)!r}, 'w').close()\nclass Scale:\n    pass\n"
    return {"type": "class", "version": 6, "module_src": source, "class_name": "Scale", "state": {}, **changes}


class Reduced:
    """Pickles as a persistent object of the given meta."""

    def __init__(self, meta: dict) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple:
        return persistence._reconstruct_persistent_obj, (self.meta,)


@pytest.mark.parametrize("shape", [[2, 3, 4], [None, 3, 4], [None, None, None]])
def test_assert_shape_accepts(shape: list[int | None]) -> None:
    misc.assert_shape(torch.zeros(2, 3, 4), shape)


@pytest.mark.parametrize("shape", [[2, 3, 5], [2, 3], [2, 3, 4, None], []])
def test_assert_shape_refuses_and_names_both(shape: list[int | None]) -> None:
    with pytest.raises(AssertionError) as caught:
        misc.assert_shape(torch.zeros(2, 3, 4), shape)
    assert "[2, 3, 4]" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_profiled_function_is_the_same_function() -> None:
    @misc.profiled_function
    def double(x: float) -> float:
        return 2 * x

    assert double(3.0) == 6.0
    assert double.__name__ == "double"


def test_suppress_tracer_warnings_restores_filters() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with misc.suppress_tracer_warnings():
            warnings.warn("inside", torch.jit.TracerWarning, stacklevel=1)
            warnings.warn("other", UserWarning, stacklevel=1)
        warnings.warn("outside", torch.jit.TracerWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["other", "outside"]


def test_init_arguments_are_remembered() -> None:
    net = Scale(3, start=2.5)
    assert tuple(net.init_args) == (3,)
    assert dict(net.init_kwargs) == {"start": 2.5}
    net.init_kwargs["start"] = 0.0
    assert dict(net.init_kwargs) == {"start": 2.5}, "what is handed out is a copy"


def test_init_arguments_are_those_of_the_outermost_class() -> None:
    net = Twice(3)
    assert (tuple(net.init_args), dict(net.init_kwargs)) == ((3,), {})
    assert net.weight.tolist() == [2.0, 2.0, 2.0]


def test_is_persistent() -> None:
    assert persistence.is_persistent(Scale)
    assert persistence.is_persistent(Twice(2))
    assert not persistence.is_persistent(torch.nn.Linear(1, 1))


def test_deepcopy_keeps_weights_and_shares_nothing() -> None:
    net = Scale(3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.5, 2.5, 3.5]))
    twin = copy.deepcopy(net.eval())
    assert type(twin) is Scale
    assert not twin.training
    assert torch.equal(twin.weight, net.weight)
    assert torch.equal(twin(torch.ones(3)), net(torch.ones(3)))
    with torch.no_grad():
        twin.weight.zero_()
        twin.shift.zero_()
    assert net.weight.tolist() == [1.5, 2.5, 3.5]
    assert net.shift.tolist() == [0.0, 1.0, 2.0]


def test_pickle_of_own_source_round_trips() -> None:
    net = Twice(2)
    back = pickle.loads(pickle.dumps(net))
    assert type(back) is Twice
    assert torch.equal(back.weight, net.weight)
    assert tuple(back.init_args) == (2,)


def test_pickle_carries_the_format_of_published_files() -> None:
    function, (meta,) = Scale(2).__reduce__()
    assert (function.__module__, function.__qualname__) == ("torch_utils.persistence", "_reconstruct_persistent_obj")
    assert (meta["type"], meta["version"], meta["class_name"]) == ("class", 6, "Scale")
    assert meta["module_src"] == Path(__file__).read_text(encoding="utf-8")
    assert {"_parameters", "_buffers", "_init_args", "_init_kwargs"} <= set(meta["state"])


def test_setstate_is_used() -> None:
    back = copy.deepcopy(Tagged("a"))
    assert (back.tag, back.restored) == ("a", True)


def test_foreign_source_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    stream = io.BytesIO(pickle.dumps({"G_ema": Reduced(foreign_meta(marker))}))
    with pytest.raises(persistence.UntrustedPickleError, match=r"gan_refine\.generators\.StyleGan2\.load"):
        pickle.load(stream)
    assert not marker.exists()


def test_the_marker_would_have_shown_execution(tmp_path: Path) -> None:
    """The test above can fail: executing that source does leave the marker."""
    marker = tmp_path / "executed"
    exec(foreign_meta(marker)["module_src"], {})
    assert marker.exists()


def own_source() -> str:
    return persistence.module_source(Scale)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_name": "NoSuch"},
        {"module_src": own_source() + "\n"},
        {"module_src": own_source(), "version": 5},
        {"module_src": own_source(), "type": "function"},
    ],
    ids=["unknown class", "source off by a line", "other version", "other type"],
)
def test_anything_but_our_own_is_refused(tmp_path: Path, changes: dict) -> None:
    meta = foreign_meta(tmp_path / "executed", **changes)
    with pytest.raises(persistence.UntrustedPickleError):
        persistence._reconstruct_persistent_obj(meta)
    assert list(tmp_path.iterdir()) == []
