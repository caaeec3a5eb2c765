"""Every public function that takes a kernel, given arrays of every wrong type: one clear error."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import convspectra as cs
from convspectra.analysis import compare
from convspectra.constrain import Limits
from convspectra.constrain.file import clip_file
from convspectra.errors import KernelError

GEOMETRY = cs.ConvGeometry((4,), padding="same", padding_mode="circular")
VALUES = np.random.default_rng(0).standard_normal((2, 2, 3))
INPUTS = np.ones((1, 2, 4))

ARGUMENTS = {
    "project": (1.0,),
    "rescale": (1.0,),
    "clip": (1.0,),
    "clip_reshaped_kernel": (1.0,),
    "low_rank": (1,),
    "soft_threshold": (0.1,),
    "project_schatten": (1.0,),
    "penalties.hinge": (1.0,),
    "penalties.schatten_norm": (2.0,),
    "penalties.reshaped_hinge": (1.0,),
    "penalties.reshaped_schatten_norm": (2.0,),
}


def _functions():
    """Of the public names, those whose first argument is a kernel."""
    rooms = {"": cs, "bounds.": cs.bounds, "penalties.": cs.penalties, "krylov.": cs.krylov}
    rooms |= {"published.": cs.published, "paper.": cs.paper}
    for prefix, room in rooms.items():
        names = getattr(room, "__all__", None) or [
            name for name, value in vars(room).items() if getattr(value, "__module__", "") == room.__name__
        ]
        for name in names:
            function = getattr(room, name)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            parameters = list(inspect.signature(function).parameters)
            if parameters[0] == "kernel":
                yield prefix + name, function


FUNCTIONS = dict(_functions())


def call(name, kernel):
    function = FUNCTIONS[name]
    if name.startswith("paper."):
        return function(kernel, (4, 4), *((1.0,) if "clip" in name else ()))
    if name == "published.max_gain":
        return function(kernel, INPUTS, INPUTS, 1.0)
    if name == "bounds.circulant_embedding":
        return function(kernel, cs.ConvGeometry((4,)))
    return function(kernel, GEOMETRY, *ARGUMENTS.get(name, ()))


class ArrayLike:
    """Of some other library: known to NumPy alone."""

    shape, dtype = VALUES.shape, VALUES.dtype

    def __array__(self, dtype=None, copy=None):
        return VALUES


def numpy_arrays():
    yield "list", VALUES.tolist()
    yield "tuple of lists", tuple(VALUES.tolist())
    yield "None", None
    yield "string", "kernel"
    yield "array-like", ArrayLike()
    yield "masked", np.ma.masked_array(VALUES, VALUES > 1)
    yield "complex64", VALUES.astype(np.complex64)
    yield "complex128", VALUES + 0j
    yield "longdouble", VALUES.astype(np.longdouble)
    yield "clongdouble", VALUES.astype(np.clongdouble)
    yield "object", VALUES.astype(object)
    yield "bool", VALUES > 0
    yield "strings", VALUES.astype(str)
    yield "bytes", VALUES.astype("S8")
    yield "dates", VALUES.astype("datetime64[s]")
    yield "spans", VALUES.astype("timedelta64[s]")
    yield "records", np.zeros(VALUES.shape, dtype=[("a", "f8"), ("b", "f8")])
    yield "NaN", np.where(VALUES > 1, np.nan, VALUES)
    yield "infinite", np.where(VALUES > 1, -np.inf, VALUES)


def torch_arrays():
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(VALUES)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "complex32", "complex64", "bool"):
        if hasattr(torch, name):
            yield name, values.to(getattr(torch, name))
    yield "sparse", values.to_sparse()
    yield "meta", values.to("meta")
    yield "quantized", torch.quantize_per_tensor(values.float(), 0.1, 0, torch.qint8)
    yield "nested", torch.nested.nested_tensor([values[0], values[1]])


def jax_arrays():
    jax = pytest.importorskip("jax")
    values = jax.numpy.asarray(VALUES, dtype="float32")
    for name in ("float8_e4m3fn", "float8_e5m2", "complex64", "bool"):
        yield name, values.astype(name)
    yield "keys", jax.random.split(jax.random.key(0), VALUES.shape)


def other_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("float8_e4m3fn", "float8_e5m2", "int4"):
        yield name, VALUES.astype(getattr(ml_dtypes, name))
    dask = pytest.importorskip("dask.array")
    yield "dask", dask.from_array(VALUES)
    strict = pytest.importorskip("array_api_strict")
    yield "strict complex", strict.asarray(VALUES + 0j)


LIBRARIES = {"numpy": numpy_arrays, "torch": torch_arrays, "jax": jax_arrays, "others": other_arrays}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_types_are_one_clear_error(name, library):
    for kind, kernel in LIBRARIES[library]():
        with pytest.raises(KernelError, match="kernel") as raised:
            call(name, kernel)
        message = str(raised.value)
        assert ("NaN" in message) == (kind in ("NaN", "infinite")), (kind, message)
        assert ":" in message or ";" in message, (kind, message)  # the next step


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_types_are_taken(name):
    """Half precision, integers, other byte orders and memory layouts, read-only arrays."""
    quarters = np.round(4 * VALUES) / 4 if not name.startswith("paper.") else np.ones((2, 2, 2, 2))
    expected = _numbers(call(name, quarters))
    strided = np.repeat(quarters, 2, axis=-1)[..., ::2]
    readonly = quarters.copy()
    readonly.flags.writeable = False
    for kernel in (
        quarters.astype(">f8"),
        quarters.astype("<f8"),
        strided,
        np.asfortranarray(quarters),
        readonly,
    ):
        np.testing.assert_allclose(_numbers(call(name, kernel)), expected, rtol=1e-9, atol=1e-9)
    for dtype, other in ((np.float16, np.float32), (np.int8, None), (np.uint64, None), (np.int64, None)):
        whole = np.abs(np.round(4 * quarters)) if other is None else quarters
        same = call(name, whole.astype(other or np.float64))
        np.testing.assert_allclose(_numbers(call(name, whole.astype(dtype))), _numbers(same), atol=1e-5)


def _numbers(found):
    """What a function found, as one number."""
    if isinstance(found, tuple):
        found = found[0]
    for field in ("kernel", "upper", "lower", "values", "nodes"):
        if getattr(found, field, None) is not None and not isinstance(found, np.ndarray):
            found = getattr(found, field)
            break
    return float(np.abs(np.asarray(found)).sum())


def test_no_function_is_missing():
    assert len(FUNCTIONS) >= 45
    assert {"project", "bounds.holder", "penalties.hinge", "krylov.largest", "published.max_gain"} <= {
        *FUNCTIONS
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_modules_with_complex_weights():
    torch = pytest.importorskip("torch")
    import convspectra.torch as ct

    module = torch.nn.Conv1d(2, 2, 3, padding=1, dtype=torch.complex64)
    for function in (
        lambda: ct.orthogonal(module),
        lambda: ct.spectral_norm(module, 1.0, input_shape=(4,)),
        lambda: ct.initialise_(module, method="scaled", input_shape=(4,)),
        lambda: ct.trace(torch.nn.Sequential(module), (2, 4)),
        lambda: ct.SpectralClip(torch.nn.Sequential(module), 1.0, guarantee="any_size").act(),
    ):
        with pytest.raises(cs.InputError, match="complex"):
            function()


@pytest.mark.parametrize(
    ("function", "made_by"),
    [
        (cs.analyze, "read_model"),
        (lambda given: compare(given, given), "read_model"),
        (lambda given: clip_file(given, "m.onnx", "o.onnx", Limits(1.0)), "read_model"),
        (cs.lipschitz, "read_graph"),
    ],
)
def test_a_path_in_place_of_a_model(function, made_by):
    with pytest.raises(cs.InputError, match=rf"must be what [a-z.]*\.{made_by}\(path\) returns; got str"):
        function("m.onnx")
