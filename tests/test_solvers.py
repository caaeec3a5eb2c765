"""The engines: one table of agreement, hard matrices, odd shapes, many threads, and choosing among them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import convspectra as cs
from convspectra._solvers import choice, native, products, threshold
from convspectra.symbol import frequency_grid
from strategies import prepare

needs_native = pytest.mark.skipif(
    native.why_unavailable() is not None, reason="the native core was not built"
)
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (3, 3),
    (4, 9),
    (16, 16),
    (17, 9),
    (9, 40),
    (33, 33),
    (64, 20),
    (70, 67),
]


def hard_matrices(shape, dtype, count=37):
    """A stack, not a multiple of any lane width, with everything that breaks solvers."""
    rng = np.random.default_rng(0)
    m, n = shape
    stack = rng.standard_normal((count, m, n)) + 1j * rng.standard_normal((count, m, n))
    tiny, huge = (1e-37, 1e36) if dtype == np.complex64 else (1e-300, 1e299)
    middle = max(m, n)
    stack[1] = 0
    stack[2] = stack[2, :1, :1]  # rank one
    stack[3] *= tiny
    stack[4] *= huge
    stack[5] = np.eye(m, n)
    stack[6] = 0
    stack[6, 0, 0] = 1
    stack[7, :, -1] = stack[7, :, 0]  # two equal columns
    stack[8] = np.triu(np.ones((m, n)))
    stack[9] = np.diag(np.logspace(0, -12, middle))[:m, :n]
    stack[10] = np.diag(np.logspace(-12, 0, middle))[:m, :n]
    graded = np.linalg.qr(rng.standard_normal((middle, middle)))[0]
    stack[11] = ((graded * np.logspace(0, -12, middle)) @ graded.T)[:m, :n]
    clustered = np.where(np.arange(middle) < middle // 2, 1.0, 1e-3) * (1 + 1e-9 * np.arange(middle))
    stack[12] = ((graded * clustered) @ graded.T)[:m, :n]
    stack[13] = np.full((m, n), 1j)
    stack[14] = stack[14].real
    stack[15] *= np.logspace(0, -30, m)[:, None]  # rows fall below any precision
    stack[16] = 0
    stack[16, -1, -1] = -2j
    unitary = np.linalg.qr(
        rng.standard_normal((middle, middle)) + 1j * rng.standard_normal((middle, middle))
    )[0]
    stack[17] = unitary[:m, :n]
    return stack.astype(dtype)


def relative_error(found, stack):
    expected = np.linalg.svd(stack.astype(np.complex128), compute_uv=False)
    largest = np.maximum(expected[:, :1], np.finfo(np.float64).tiny)
    return np.abs(found - expected) / largest


@needs_native
@pytest.mark.parametrize("layout", [1, 2], ids=["matrix a lane", "row across lanes"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_hard_matrices_of_every_shape(instruction_set, dtype, layout):
    for shape in SHAPES:
        stack = hard_matrices(shape, dtype)
        values, bisected = native.singular_values_of_blocks(
            stack, instruction_set=instruction_set, layout=layout
        )
        assert bisected == 0, shape
        assert np.all(np.diff(values, axis=1) <= 0)
        error = relative_error(values, stack)
        assert error.max() <= TOLERANCE[values.dtype], (shape, np.unravel_index(error.argmax(), error.shape))


def lowered_by_svd(stack, level):
    u, s, vh = np.linalg.svd(stack.astype(np.complex128), full_matrices=False)
    over = np.maximum(s - level, 0)
    return (u * over[:, None, :]) @ vh, over.sum(axis=1), s[:, 0]


@needs_native
@pytest.mark.parametrize("layout", [1, 2], ids=["matrix a lane", "row across lanes"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_hard_matrices_are_lowered(instruction_set, dtype, layout):
    for shape in SHAPES:
        stack = hard_matrices(shape, dtype)
        tolerance = TOLERANCE[stack.real.dtype]
        for level in (1e-3, 1.0, 4.0, 1e9):
            found = native.lowered_of_blocks(stack, level, instruction_set=instruction_set, layout=layout)
            blocks, sums, tops = lowered_by_svd(stack, level)
            scale = np.maximum(tops, np.finfo(np.float64).tiny)
            assert (np.abs(found.blocks - blocks).max(axis=(1, 2)) / scale).max() <= tolerance, (shape, level)
            assert (np.abs(found.sums - sums) / scale).max() <= min(shape) * tolerance, (shape, level)
            assert (np.abs(found.tops - tops) / scale).max() <= tolerance, (shape, level)


@needs_native
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_what_the_core_does_not_finish_is_lowered_by_lapack(dtype, monkeypatch):
    stack = hard_matrices((6, 5), dtype)
    monkeypatch.setattr(native, "_sweeps", lambda side: 0)
    assert np.isnan(native.lowered_of_blocks(stack, 1.0).sums).any()
    found = threshold.lowered("native", stack, 1.0)
    blocks, sums, tops = lowered_by_svd(stack, 1.0)
    scale = np.maximum(tops, np.finfo(np.float64).tiny)
    assert (np.abs(found.blocks - blocks).max(axis=(1, 2)) / scale).max() <= TOLERANCE[stack.real.dtype]
    assert (np.abs(found.sums - sums) / scale).max() <= 5 * TOLERANCE[stack.real.dtype]


@pytest.mark.parametrize("engine", ["native", "lapack", "torch"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_every_engine_lowers_alike(engine, dtype):
    if engine == "torch":
        pytest.importorskip("torch")
    if engine == "native" and native.why_unavailable():
        pytest.skip(native.why_unavailable())
    rng = np.random.default_rng(3)
    stack = rng.standard_normal((200, 1, 5, 7)) + 1j * rng.standard_normal((200, 1, 5, 7))
    stack[::3] /= 10  # inside
    for few in (stack.astype(dtype), stack[:1].astype(dtype), (stack / 20).astype(dtype)):
        found = threshold.lowered(engine, few, 2.0)
        blocks, sums, _ = lowered_by_svd(few.reshape(-1, 5, 7), 2.0)
        tolerance = 20 * TOLERANCE[few.real.dtype]
        np.testing.assert_allclose(found.blocks, blocks.reshape(few.shape), atol=tolerance)
        np.testing.assert_allclose(found.sums[:, 0], sums, atol=5 * tolerance)


@pytest.mark.parametrize("dtype", [pytest.param(np.complex64, marks=pytest.mark.slow), np.complex128])
def test_matrix_products_alone_give_the_same(dtype):
    for shape in SHAPES:
        stack = hard_matrices(shape, dtype)
        tolerance = TOLERANCE[stack.real.dtype]
        for level in (1e-3, 1.0, 4.0, 1e9):
            found = products.lowered(stack, level)
            blocks, sums, tops = lowered_by_svd(stack, level)
            scale = np.maximum(tops, np.finfo(np.float64).tiny)
            assert (np.abs(found.tops - tops) / scale).max() <= tolerance, (shape, level)
            # A level far above the values leaves rounding of its own size.
            room = np.maximum(scale, np.where(tops > level, level, 0))
            assert (np.abs(found.blocks - blocks).max(axis=(1, 2)) / room).max() <= 3 * tolerance, (
                shape,
                level,
            )
            assert (np.abs(found.sums - sums) / room).max() <= 3 * max(shape) * tolerance, (shape, level)


@needs_native
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_bisection_gives_the_same(dtype):
    for shape in SHAPES:
        stack = hard_matrices(shape, dtype)
        values, bisected = native.singular_values_of_blocks(stack, sweeps=0)
        assert bisected == (len(stack) if min(shape) > 2 else 0)
        assert relative_error(values, stack).max() <= TOLERANCE[values.dtype], shape


@needs_native
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33])
def test_any_number_of_matrices(count, dtype):
    stack = hard_matrices((6, 5), dtype)[:count]
    values, _ = native.singular_values_of_blocks(stack)
    assert relative_error(values, stack).max() <= TOLERANCE[values.dtype]


@needs_native
@pytest.mark.parametrize("layout", [1, 2])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_what_is_not_finite_stays_with_its_matrix(dtype, layout):
    stack = hard_matrices((9, 9), dtype)
    stack[20, 3, 4], stack[21, 0, 0] = np.nan, np.inf
    values, _ = native.singular_values_of_blocks(stack, layout=layout)
    assert np.isnan(values[[20, 21]]).all()
    others = np.delete(np.arange(len(stack)), [20, 21])
    assert relative_error(values[others], stack[others]).max() <= TOLERANCE[values.dtype]


@needs_native
def test_larger_sides_keep_the_accuracy():
    rng = np.random.default_rng(1)
    for side in (129, 260):
        stack = rng.standard_normal((3, side, side)) + 1j * rng.standard_normal((3, side, side))
        for dtype in (np.complex64, np.complex128):
            one = stack.astype(dtype)
            values, bisected = native.singular_values_of_blocks(one)
            assert bisected == 0
            assert relative_error(values, one).max() <= TOLERANCE[values.dtype]


GEOMETRIES = {
    "plain": ((8, 6, 3, 3), {"input_shape": (12, 10)}),
    "wide": ((5, 12, 3, 3), {"input_shape": (9, 9)}),
    "strided": ((6, 5, 3, 3), {"input_shape": (12, 8), "stride": 2}),
    "strided, classes without taps": ((6, 5, 1, 1), {"input_shape": (12, 8), "stride": 2}),
    "grouped": ((8, 3, 3), {"input_shape": (20,), "groups": 4, "layout": "OIW"}),
    "grouped and strided": ((8, 2, 3, 3), {"input_shape": (8, 8), "groups": 2, "stride": (2, 1)}),
    "depthwise": ((7, 1, 5, 5), {"input_shape": (16, 16), "groups": 7}),
    "pointwise": ((9, 7, 1, 1), {"input_shape": (8, 8)}),
    "dilated": ((4, 4, 3, 3), {"input_shape": (9, 12), "dilation": (2, 3)}),
    "transposed": ((5, 4, 4, 4), {"input_shape": (6, 6), "stride": 2, "transposed": True, "padding": 1}),
    "larger than the input": ((3, 4, 5, 5), {"input_shape": (3, 4)}),
    "volume": ((3, 2, 3, 2, 3), {"input_shape": (4, 5, 6), "layout": "OIDHW"}),
    "above the lanes": ((150, 140, 3, 3), {"input_shape": (4, 4)}),
}


def case(name, dtype):
    shape, options = GEOMETRIES[name]
    kernel = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    if options.get("transposed"):
        geometry = cs.ConvGeometry(padding_mode="zeros", **options).on_torus()
    else:
        geometry = cs.ConvGeometry(padding="same", padding_mode="circular", **options)
    return kernel, geometry


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("solver", ["auto", pytest.param("native", marks=needs_native), "lapack", "torch"])
def test_all_solvers_agree(solver, name, dtype):
    if solver == "torch":
        pytest.importorskip("torch")
    kernel, geometry = case(name, dtype)
    expected = cs.singular_values(kernel.astype(np.float64), geometry, compute=cs.Compute(solver="lapack"))
    found = cs.singular_values(kernel, geometry, compute=cs.Compute(solver=solver))
    assert type(found.values) is np.ndarray
    assert found.values.dtype == dtype
    error = np.abs(found.sorted() - expected.sorted()).max() / expected.norm
    assert error <= TOLERANCE[np.dtype(dtype)]
    bound = cs.operator_norm(kernel, geometry, compute=cs.Compute(solver=solver))
    assert abs(bound.upper - expected.norm) <= TOLERANCE[np.dtype(dtype)] * expected.norm


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_the_largest_is_certified_not_guessed(instruction_set, name, dtype):
    kernel, geometry = case(name, dtype)
    ready, correlation = prepare(kernel, geometry)
    grid, prepared = frequency_grid(correlation), native.prepare(ready, correlation)
    everything = native.singular_values(prepared, grid)[..., 0]
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    for start, stop in ((0, len(grid)), (len(grid) // 2, len(grid))):
        part = grid.between(start, stop)
        value, frequency, group = native.largest(prepared, part, 0.0, instruction_set=instruction_set)
        expected = everything[start:stop].max()
        assert abs(value - expected) <= 2 * tolerance * expected
        assert start <= frequency < stop
        assert everything[frequency, group] >= expected * (1 - 3 * tolerance)
    assert native.largest(prepared, grid, 2 * float(expected)) == (0.0, -1, -1)


@pytest.mark.parametrize("kind", ["random", "orthogonal", "zero", "one large block", "groups"])
def test_norms_over_many_frequencies(kind):
    rng = np.random.default_rng(3)
    kernel, groups = rng.standard_normal((12, 12, 3, 3)), 1
    if kind == "orthogonal":
        kernel = np.zeros((12, 12, 3, 3))
        kernel[:, :, 1, 1] = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    if kind == "zero":
        kernel = np.zeros((12, 12, 3, 3))
    if kind == "one large block":  # the checkerboard, last of all frequencies
        kernel = (
            1e-3 * kernel + (-1.0) ** np.add.outer(np.arange(3), np.arange(3)) * np.eye(12)[:, :, None, None]
        )
    if kind == "groups":
        kernel, groups = kernel[:, :4] * np.repeat([1.0, 3.0, 2.0], 4)[:, None, None, None], 3
    for dtype in (np.float32, np.float64):
        geometry = cs.ConvGeometry((48, 40), groups=groups, padding="same", padding_mode="circular")
        expected = cs.singular_values(kernel, geometry, compute=cs.Compute(solver="lapack")).norm
        bound = cs.operator_norm(kernel.astype(dtype), geometry)
        assert type(bound.upper) is dtype
        assert abs(bound.upper - expected) <= TOLERANCE[np.dtype(dtype)] * expected


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_kernels_at_the_ends_of_the_range(scale):
    kernel, geometry = case("plain", np.float64)
    small = (kernel * scale).astype(np.float32)
    expected = cs.singular_values(
        small.astype(np.float64), geometry, compute=cs.Compute(solver="lapack")
    ).sorted()
    found = cs.singular_values(small, geometry).sorted()
    # A subnormal number has an absolute precision only; the core scales, LAPACK adds 54 products of them.
    unit = np.finfo(np.float32).smallest_subnormal
    steps = 1 if native.why_unavailable() is None else 54
    assert np.abs(found - expected).max() <= 2e-6 * expected[0] + steps * unit


@needs_native
def test_threads_do_not_disturb_each_other():
    kernels = [case(name, dtype) for name in GEOMETRIES for dtype in (np.float32, np.float64)]
    alone = [cs.singular_values(*one, compute=cs.Compute(solver="native")).values for one in kernels]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            together = list(
                threads.map(
                    lambda one: cs.singular_values(*one, compute=cs.Compute(solver="native")).values, kernels
                )
            )
            for first, second in zip(alone, together, strict=True):
                np.testing.assert_array_equal(first, second)


@needs_native
def test_pieces_do_not_change_the_values():
    kernel, geometry = case("plain", np.float32)
    whole = cs.singular_values(kernel, geometry, compute=cs.Compute(solver="native"))
    pieces = cs.singular_values(kernel, geometry, compute=cs.Compute(solver="native", memory=2**14))
    # A rest too small for the lanes is solved in the other layout: equal up to rounding.
    np.testing.assert_allclose(whole.values, pieces.values, atol=1e-6 * whole.norm)


@needs_native
def test_no_symbol_stands_in_memory():
    code = """
import resource, numpy as np, convspectra as cs
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
kernel = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
def geometry(n): return cs.ConvGeometry((n, n), padding="same", padding_mode="circular")
cs.singular_values(kernel, geometry(16))
before = peak()
values = cs.singular_values(kernel, geometry(128)).values
print(peak() - before - values.nbytes / 2**20)
"""
    beyond = float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=600).stdout
    )
    symbol = 64 * 64 * 128 * 65 * 8 / 2**20
    assert beyond < 64 < symbol / 3


def test_choosing_says_what_is_wrong(monkeypatch):
    kernel, geometry = case("plain", np.float32)
    with pytest.raises(cs.InputError, match=r"^solver"):
        cs.singular_values(kernel, geometry, compute=cs.Compute(solver="eigen"))
    monkeypatch.setattr(native, "why_unavailable", lambda: "it was not built")
    assert choice.choose(cs.Compute(solver="auto"), kernel, (8, 6), 60) == "namespace"
    assert "lapack" in choice.describe()
    with pytest.raises(cs.InputError, match="solver='native' is not available: it was not built"):
        cs.singular_values(kernel, geometry, compute=cs.Compute(solver="native"))


def test_gradients_keep_their_library():
    torch = pytest.importorskip("torch")
    kernel, geometry = case("plain", np.float64)
    tensor = torch.tensor(kernel, requires_grad=True)
    assert choice.choose(cs.Compute(solver="auto"), tensor, (8, 6), 60) == "namespace"
    with pytest.raises(cs.InputError, match="detach the kernel"):
        cs.singular_values(tensor, geometry, compute=cs.Compute(solver="lapack"))
    found = cs.singular_values(tensor.detach(), geometry)
    assert isinstance(found.values, torch.Tensor)
    expected = cs.singular_values(kernel, geometry).values
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-13)


def test_jax_arrays_come_back_as_jax_arrays():
    jax = pytest.importorskip("jax")
    kernel, geometry = case("plain", np.float32)
    found = cs.singular_values(jax.numpy.asarray(kernel), geometry)
    assert isinstance(found.values, jax.Array)
    np.testing.assert_allclose(found.values, cs.singular_values(kernel, geometry).values, rtol=1e-6)
