"""Penalties: their values from the singular values of a dense matrix, and the same from every library."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import penalties
from convspectra._compat import to_numpy
from convspectra.compute import DEFAULT
from convspectra.operators.reference import dense_operator
from convspectra.penalties.orthonormal import by_autocorrelation, by_frequencies
from strategies import layers, prepare

# Arguments, and the value from all singular values of the operator.
PENALTIES = {
    "norm": ((), np.max),
    "squared_norm": ((), lambda s: s.max() ** 2),
    "condition_number": ((), lambda s: s.max() / s.min() if s.min() > 0 else math.inf),
    "hinge": ((0.7,), lambda s: np.sum(np.maximum(0, s - 0.7) ** 2)),
    "nuclear_norm": ((), np.sum),
    "schatten_norm": ((3.5,), lambda s: np.sum(s**3.5) ** (1 / 3.5)),
    "log_volume": ((), lambda s: np.sum(np.log(s)) if s.min() > 0 else -math.inf),
    "orthogonality": ((), lambda s: np.sum((s**2 - 1) ** 2)),
}
SINGULAR = ("condition_number", "log_volume")  # infinite where a singular value is zero


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def of_reshaped(name):
    return name.replace("operator", "reshaped") if "operator" in name else f"reshaped_{name}"


def reshaped_values(kernel, geometry):
    """Singular values of the kernel as one matrix a group, from NumPy alone."""
    ordered = np.transpose(kernel, geometry.kernel_axes)
    matrices = ordered.reshape(geometry.groups, ordered.shape[0] // geometry.groups, -1)
    return np.linalg.svd(matrices, compute_uv=False).reshape(-1)


def expect(name, found, values):
    largest, smallest = values.max(), values.min()
    if name in SINGULAR and 1e-14 * largest < smallest < 1e-6 * largest:
        return  # its digits are rounding
    values = np.where(values <= 1e-14 * largest, 0, values)
    np.testing.assert_allclose(found, PENALTIES[name][1](values), rtol=1e-8, atol=1e-9, err_msg=name)


@settings(max_examples=60)
@given(layers())
def test_the_dense_matrix_has_these_values(layer):
    kernel, geometry = layer
    values = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    flat = reshaped_values(kernel, geometry)
    for name, (arguments, _) in PENALTIES.items():
        expect(name, getattr(penalties, name)(kernel, geometry, *arguments), values)
        expect(name, getattr(penalties, of_reshaped(name))(kernel, geometry, *arguments), flat)


@settings(max_examples=60)
@given(layers())
def test_both_ways_to_orthogonality_agree(layer):
    kernel, geometry = layer
    ready, correlation = prepare(kernel, geometry)
    shifts = by_autocorrelation(ready, correlation)
    np.testing.assert_allclose(by_frequencies(ready, correlation, DEFAULT), shifts, rtol=1e-10, atol=1e-9)
    squares = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False) ** 2
    np.testing.assert_allclose(shifts, np.sum((squares - 1) ** 2), rtol=1e-10, atol=1e-9)


def test_the_cheaper_way_to_orthogonality_is_taken(monkeypatch):
    module = importlib.import_module("convspectra.penalties.orthonormal")
    taken = []
    monkeypatch.setattr(module, "by_autocorrelation", lambda *_: taken.append("shifts"))
    monkeypatch.setattr(module, "by_frequencies", lambda *_: taken.append("frequencies"))
    penalties.orthogonality(np.ones((16, 16, 3, 3)), torus((32, 32)))
    penalties.orthogonality(np.ones((16, 16, 7, 7)), torus((8, 8)))
    assert taken == ["shifts", "frequencies"]


@settings(max_examples=30)
@given(
    st.one_of(
        st.tuples(layers("zeros"), st.sampled_from(["layer", "any_size"])),
        st.tuples(st.one_of(layers("reflect"), layers("replicate"), layers("circular")), st.just("layer")),
    )
)
def test_penalties_of_the_largest_value_hold_for_the_padded_layer(case):
    (kernel, geometry), guarantee = case
    norm = np.linalg.norm(dense_operator(kernel, geometry), 2)
    assert penalties.norm(kernel, geometry, guarantee=guarantee) >= norm * (1 - 1e-14)
    assume(norm > 0)
    limit = 0.6 * norm
    assert penalties.hinge(kernel, geometry, limit, guarantee=guarantee) > 0
    # Zero only where the samples prove it: of any_size they may be 2 % an axis below.
    share = 1 if guarantee == "layer" else 1.02**3
    if geometry.padding_mode == "zeros":
        inside = cs.rescale(kernel, geometry, limit / share, guarantee=guarantee).kernel
    else:  # only where the number of copies proves it, which needs no factorisation
        inside = kernel * (limit * (1 - 1e-12) / penalties.norm(kernel, geometry, guarantee=guarantee))
    assert penalties.hinge(inside, geometry, limit, guarantee=guarantee) == 0


def test_input_that_no_tap_reads_counts_as_zero():
    kernel, geometry = np.eye(4)[:, :1, None], torus((6,), stride=3)
    values = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    assert (values == 0).sum() == 4
    assert penalties.orthogonality(kernel, geometry) == 4
    assert penalties.log_volume(kernel, geometry) == -math.inf
    assert penalties.condition_number(kernel, geometry) == math.inf
    np.testing.assert_allclose(penalties.nuclear_norm(kernel, geometry), values.sum())


def test_zero_up_to_rounding_counts_as_zero():
    kernel = np.multiply.outer(np.ones((3, 3)), [1.0, 0.3, 0.2])
    geometry = torus((7,))
    assert penalties.condition_number(kernel, geometry) == math.inf
    assert penalties.log_volume(kernel, geometry) == -math.inf


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_scale(scale):
    kernel, geometry = np.random.default_rng(0).standard_normal((3, 2, 3, 3)), torus((4, 5))
    for name in ("norm", "nuclear_norm", "schatten_norm"):
        arguments = (20.0,) if name == "schatten_norm" else ()
        method = getattr(penalties, name)
        np.testing.assert_allclose(
            method(scale * kernel, geometry, *arguments), scale * method(kernel, geometry, *arguments)
        )
    np.testing.assert_allclose(
        penalties.schatten_norm(kernel, geometry, math.inf), penalties.norm(kernel, geometry)
    )
    np.testing.assert_allclose(
        penalties.schatten_norm(kernel, geometry, 1), penalties.nuclear_norm(kernel, geometry)
    )
    for p in (300.0, 1e5, 1e300):  # powers of it leave the range
        np.testing.assert_allclose(
            penalties.schatten_norm(scale * kernel, geometry, p),
            cs.singular_values(scale * kernel, geometry).schatten_norm(p),
        )


GEOMETRIES = {
    "plain": ((4, 3, 3, 3), {"input_shape": (6, 5)}),
    "strided": ((4, 3, 3, 3), {"input_shape": (6, 4), "stride": 2}),
    "depthwise": ((4, 1, 3), {"input_shape": (7,), "groups": 4}),
    "transposed": ((4, 2, 3), {"input_shape": (5,), "stride": 3, "groups": 2, "transposed": True}),
}


def arrays(library, kernel):
    if library == "numpy":
        return kernel
    module = pytest.importorskip({"strict": "array_api_strict", "jax": "jax.numpy"}.get(library, library))
    if library == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    return module.asarray(kernel)


# JAX compiles every shape: a case or two for each kind of block there.
TABLE = [
    *(
        (library, dtype, case)
        for library in ("numpy", "strict", "torch")
        for dtype in (np.float32, np.float64)
        for case in GEOMETRIES
    ),
    *(
        pytest.param("jax", dtype, case, marks=pytest.mark.slow)
        for case, dtype in (("strided", np.float32), ("depthwise", np.float64))
    ),
]


@pytest.mark.parametrize(("library", "dtype", "case"), TABLE)
def test_all_libraries_agree(library, dtype, case):
    shape, options = GEOMETRIES[case]
    geometry = cs.ConvGeometry(padding="same", padding_mode="circular", **options)
    kernel = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    theirs = arrays(library, kernel)
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    for name, (arguments, _) in PENALTIES.items():
        for one in (name, of_reshaped(name)) if library != "jax" else (name,):
            expected = getattr(penalties, one)(kernel.astype(np.float64), geometry, *arguments)
            found = getattr(penalties, one)(theirs, geometry, *arguments)
            assert found.dtype == theirs.dtype, one
            assert found.shape == (), one
            if library != "numpy":
                assert type(found) is type(theirs), one
            np.testing.assert_allclose(to_numpy(found), expected, rtol=tolerance, err_msg=one)


def test_a_gradient_does_not_change_the_value():
    torch = pytest.importorskip("torch")
    kernel = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 3)))
    tracked = kernel.clone().requires_grad_()
    for name, (arguments, _) in PENALTIES.items():
        plain, found = (getattr(penalties, name)(k, torus((5,)), *arguments) for k in (kernel, tracked))
        assert found.requires_grad, name
        np.testing.assert_allclose(found.detach(), plain, rtol=1e-12)


def test_bad_arguments_are_named():
    kernel, geometry = np.ones((2, 2, 3, 3)), torus((4, 4))
    for limit in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(cs.InputError, match=r"^max_norm"):
            penalties.hinge(kernel, geometry, limit)
        with pytest.raises(cs.InputError, match=r"^max_reshaped_norm"):
            penalties.reshaped_hinge(kernel, geometry, limit)
    for p in (0.5, math.nan, "x", None, True):
        with pytest.raises(cs.InputError, match=r"^p "):
            penalties.schatten_norm(kernel, geometry, p)
    reflecting = cs.ConvGeometry((1, 4), padding=1, padding_mode="reflect")
    for name, (arguments, _) in PENALTIES.items():
        method = getattr(penalties, name)
        with pytest.raises(cs.InputError, match=r"^guarantee"):
            method(kernel, geometry, *arguments, guarantee="both")
        with pytest.raises(cs.GeometryError, match="reflect padding needs at least two points"):
            method(kernel, reflecting, *arguments, guarantee="layer")
        with pytest.raises(cs.GeometryError, match=r"^kernel"):
            method(kernel[0], geometry, *arguments)
        with pytest.raises(cs.KernelError, match="NaN or infinite"):
            method(math.nan * kernel, geometry, *arguments)
