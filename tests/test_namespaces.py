"""The same numbers from every array library, dtype and device, in one table."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import convspectra as cs
from convspectra._compat import to_numpy
from convspectra.symbol import frequency_grid, symbol_blocks
from strategies import prepare

GEOMETRIES = {
    "plain": ((4, 3, 3, 3), {"input_shape": (6, 5)}),
    "strided": ((4, 3, 3, 3), {"input_shape": (6, 4), "stride": 2}),
    "depthwise": ((4, 1, 3, 3), {"input_shape": (6, 4), "groups": 4}),
    "transposed": ((4, 2, 3), {"input_shape": (5,), "stride": 3, "groups": 2, "transposed": True}),
    "patches": ((4, 3, 2, 2), {"input_shape": (6, 4), "stride": 2}),
    "sparse phases": ((4, 1, 1, 1), {"input_shape": (6, 4), "stride": 2}),
}


def arrays(library, kernel):
    if library == "numpy":
        return kernel
    module = pytest.importorskip({"strict": "array_api_strict", "jax": "jax.numpy"}.get(library, library))
    if library == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    return module.asarray(kernel)


@pytest.mark.parametrize("case", GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_all_libraries_agree(library, dtype, case):
    shape, options = GEOMETRIES[case]
    geometry = cs.ConvGeometry(padding="same", padding_mode="circular", **options)
    kernel = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    theirs = arrays(library, kernel)
    expected = cs.singular_values(kernel.astype(np.float64), geometry)
    spectrum = cs.singular_values(theirs, geometry)
    assert type(spectrum.values) is type(theirs)
    assert spectrum.values.dtype == theirs.dtype
    statistics = [
        "norm",
        "smallest",
        "condition_number",
        "nuclear_norm",
        "frobenius_norm",
        "stable_rank",
        "effective_rank",
    ]
    np.testing.assert_allclose(to_numpy(spectrum.sorted()), expected.sorted(), atol=tolerance * 10)
    np.testing.assert_allclose(
        spectrum.quantiles([0.1, 0.9]), expected.quantiles([0.1, 0.9]), rtol=tolerance * 100
    )
    np.testing.assert_allclose(spectrum.frequency_map(), expected.frequency_map(), atol=tolerance * 10)
    for name in statistics:
        np.testing.assert_allclose(
            to_numpy(getattr(spectrum, name)), getattr(expected, name), rtol=1e3 * tolerance, err_msg=name
        )
    assert spectrum.rank() == expected.rank(1e-4)
    for boundary in (geometry, cs.ConvGeometry(padding=1, **options)):
        bound, reference = cs.operator_norm(theirs, boundary), cs.operator_norm(kernel, boundary)
        np.testing.assert_allclose(to_numpy(bound.upper), reference.upper, rtol=20 * tolerance)
        np.testing.assert_allclose(to_numpy(bound.lower), reference.lower, rtol=20 * tolerance)
    clipped = cs.clip(theirs, geometry, 1.0).kernel
    assert clipped.dtype == theirs.dtype
    np.testing.assert_allclose(to_numpy(clipped), cs.clip(kernel, geometry, 1.0).kernel, atol=10 * tolerance)
    left, values, right = (
        to_numpy(part) for part in (lambda d: (d.left, d.values, d.right))(cs.svd(theirs, geometry))
    )
    ready, correlation = prepare(kernel, geometry)
    blocks = symbol_blocks(ready, correlation, frequency_grid(correlation))
    np.testing.assert_allclose((left * values[..., None, :]) @ right, blocks, atol=10 * tolerance)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_half_precision_is_computed_in_float32(library, name):
    if library == "numpy":
        dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
        kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(dtype)
    else:
        module = pytest.importorskip("jax.numpy" if library == "jax" else "torch")
        kernel = arrays(library, np.random.default_rng(0).standard_normal((4, 3, 3, 3)))
        kernel = kernel.astype(name) if library == "jax" else kernel.to(getattr(module, name))
    geometry = cs.ConvGeometry((6, 5), padding="same", padding_mode="circular")
    spectrum = cs.singular_values(kernel, geometry)
    assert str(spectrum.values.dtype).endswith("float32")
    wide = kernel.to(module.float64) if library == "torch" else kernel.astype("float64")
    expected = cs.singular_values(wide, geometry)
    np.testing.assert_allclose(to_numpy(spectrum.sorted()), to_numpy(expected.sorted()), atol=1e-4)


def test_integers_are_taken_as_real_numbers():
    laplacian = np.array([[[-1, 2, -1]]])
    geometry = cs.ConvGeometry(3, padding="same", padding_mode="circular")
    np.testing.assert_allclose(cs.operator_norm(laplacian, geometry).upper, 3)


def test_gradients_pass_through_torch():
    torch = pytest.importorskip("torch")
    kernel = torch.tensor(np.random.default_rng(0).standard_normal((3, 2, 3, 3)), requires_grad=True)
    geometry = cs.ConvGeometry((5, 4), padding="same", padding_mode="circular")
    for function in (
        lambda k: cs.operator_norm(k, geometry).upper,
        lambda k: cs.singular_values(k, geometry).nuclear_norm,
    ):
        assert torch.autograd.gradcheck(function, (kernel,))


def test_values_can_be_compiled_by_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    geometry = cs.ConvGeometry((5, 4), padding="same", padding_mode="circular")
    compiled = jax.jit(lambda k: cs.singular_values(k, geometry).norm)
    np.testing.assert_allclose(compiled(kernel), cs.singular_values(kernel, geometry).norm, rtol=1e-12)
