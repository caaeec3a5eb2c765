"""Layers as they run, against the dense operator, PyTorch's modules and the law of adjoints."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra._compat import to_numpy
from convspectra.operators import padded
from convspectra.operators.reference import dense_operator
from strategies import layers, prepare

MODES = ("zeros", "circular", "reflect", "replicate")
ANY = st.sampled_from(["torus", *MODES]).flatmap(layers)


def operator_of(kernel, geometry):
    return padded.operator(*prepare(kernel, geometry))


def pair(operator, batch=2, seed=0, complex_=False):
    rng = np.random.default_rng(seed)
    shapes = ((batch, *operator.x_shape), (batch, *operator.y_shape))
    return [rng.standard_normal(s) + (1j * rng.standard_normal(s) if complex_ else 0) for s in shapes]


@settings(max_examples=300)
@given(ANY, st.booleans())
def test_it_is_the_dense_operator_and_its_adjoint(layer, complex_):
    matrix, operator = dense_operator(*layer), operator_of(*layer)
    x, y = pair(operator, complex_=complex_)
    scale = 1e-13 * (1 + np.abs(matrix).max()) * max(matrix.shape)
    ahead, back = operator.apply(x), operator.adjoint(y)
    np.testing.assert_allclose(ahead.reshape(2, -1), x.reshape(2, -1) @ matrix.T, atol=scale)
    np.testing.assert_allclose(back.reshape(2, -1), y.reshape(2, -1) @ matrix, atol=scale)
    np.testing.assert_allclose(np.vdot(y, ahead), np.vdot(back, x), atol=10 * scale)


@settings(max_examples=100)
@given(layers("reflect", mirrored=False))
def test_it_refuses_what_has_nothing_to_mirror_and_nothing_else(layer):
    kernel, geometry = layer
    try:
        dense_operator(kernel, geometry)
    except cs.GeometryError:
        with pytest.raises(cs.GeometryError, match="two points"):
            operator_of(kernel, geometry)
    else:
        operator_of(kernel, geometry)


@settings(max_examples=100)
@given(ANY)
def test_dense_group_by_group(layer):
    matrix = dense_operator(*layer)
    operator = operator_of(*layer)
    blocks = operator.matrix(batch=3)
    groups, rows, columns = blocks.shape
    assert (rows, columns) == operator.sides
    whole = np.zeros((groups, rows, groups, columns))
    whole[np.arange(groups), :, np.arange(groups)] = blocks
    np.testing.assert_allclose(whole.reshape(matrix.shape), matrix, atol=1e-13 * (1 + np.abs(matrix).max()))


@settings(max_examples=100)
@given(ANY)
def test_reads_are_counted(layer):
    kernel, geometry = layer
    ones, correlation = np.ones_like(kernel), geometry.correlation(kernel.shape)
    # With all taps 1 and one channel, an entry of the matrix counts the taps that read a point.
    matrix = dense_operator(ones, geometry)
    matrix = matrix.T if geometry.transposed else matrix
    points = matrix.shape[1] // correlation.in_channels
    one_channel = matrix.reshape(correlation.out_channels, -1, correlation.in_channels, points)[0, :, 0]
    assert one_channel.sum(axis=0).max() == padded.read_count(correlation)


@pytest.mark.parametrize("slab", [1, 40, 1000])
def test_large_maps_go_in_slabs(monkeypatch, slab):
    kernel = np.random.default_rng(0).standard_normal((2, 3, 3, 2))
    for options in (
        {"padding": 1, "stride": (2, 1)},
        {"dilation": 2, "padding": 3, "padding_mode": "reflect"},
    ):
        operator = operator_of(kernel, cs.ConvGeometry((9, 8), **options))
        x, y = pair(operator)
        expected = operator.apply(x), operator.adjoint(y)
        monkeypatch.setattr(padded, "_WINDOWS", slab)
        np.testing.assert_allclose(operator.apply(x), expected[0], atol=1e-13)
        np.testing.assert_allclose(operator.adjoint(y), expected[1], atol=1e-13)
        monkeypatch.undo()


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
@settings(max_examples=40)
@given(layer=ANY)
def test_other_libraries(library, layer):
    xp = pytest.importorskip(library)
    agree(xp, *layer)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_in_jax(mode):
    xp = pytest.importorskip("jax.numpy")
    importlib.import_module("jax").config.update("jax_enable_x64", True)
    geometry = cs.ConvGeometry((4, 5), padding=((2, 1), (0, 1)), padding_mode=mode, stride=(2, 1), groups=2)
    agree(xp, np.random.default_rng(0).standard_normal((4, 2, 3, 2)), geometry)


def agree(xp, kernel, geometry):
    ours, theirs = operator_of(kernel, geometry), operator_of(xp.asarray(kernel), geometry)
    for complex_ in (False, True):
        for run, v in zip(("apply", "adjoint"), pair(ours, complex_=complex_), strict=True):
            found = getattr(theirs, run)(xp.asarray(v))
            assert type(found) is type(theirs.kernel)
            np.testing.assert_allclose(to_numpy(found), getattr(ours, run)(v), atol=1e-11)


def test_derivatives_by_input_and_by_kernel():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for mode in MODES:
        geometry = cs.ConvGeometry((4, 3), padding=1, padding_mode=mode, stride=(2, 1), groups=2)
        kernel = torch.tensor(rng.standard_normal((2, 1, 3, 2)), requires_grad=True)
        operator = operator_of(kernel.detach(), geometry)
        x, y = (torch.tensor(v, requires_grad=True) for v in pair(operator, batch=1))

        def run(k, v, name, geometry=geometry):
            return getattr(operator_of(k, geometry), name)(v)

        for name, v in (("apply", x), ("adjoint", y)):
            assert torch.autograd.gradcheck(lambda k, u, name=name: run(k, u, name), (kernel, v))


TORCH = [
    (1, {"padding": 2}),
    (2, {"padding": (1, 2), "stride": (2, 3)}),
    (2, {"padding": "same", "dilation": (2, 1)}),
    (2, {"padding": "valid", "groups": 2}),
    (3, {"padding": 1, "stride": 2}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("axes", "options"), TORCH)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_pytorchs_module(axes, options, mode, dtype):
    torch = pytest.importorskip("torch")
    cls = getattr(torch.nn, f"Conv{axes}d")
    module = cls(4, 6, (3, 4, 2)[:axes], padding_mode=mode, bias=False, **options)
    module = module.to(getattr(torch, np.dtype(dtype).name))
    size = (9, 8, 7)[:axes]
    geometry = cs.ConvGeometry(size, padding_mode=mode, **options)
    x = np.random.default_rng(0).standard_normal((2, 4, *size)).astype(dtype)
    expected = module(torch.from_numpy(x)).detach().numpy()
    found = operator_of(module.weight.detach().numpy(), geometry).apply(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_is_pytorchs_transposed_module(axes):
    torch = pytest.importorskip("torch")
    options = {"padding": 1, "stride": 3, "output_padding": 2, "groups": 2, "dilation": 2}
    module = getattr(torch.nn, f"ConvTranspose{axes}d")(
        4, 6, (3, 4, 2)[:axes], bias=False, **options
    ).double()
    size = (4, 3, 2)[:axes]
    geometry = cs.ConvGeometry(size, transposed=True, **options)
    x = np.random.default_rng(0).standard_normal((2, 4, *size))
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(
        operator_of(module.weight.detach().numpy(), geometry).apply(x), expected, atol=1e-13
    )


def test_a_wrong_shape_is_named():
    operator = operator_of(np.ones((2, 3, 3)), cs.ConvGeometry(5, padding=1))
    with pytest.raises(cs.InputError, match=r"^x "):
        operator.apply(np.ones((3, 5)))
