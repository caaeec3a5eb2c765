"""The supremum over all frequencies: against dense blocks on fine grids, and exact arithmetic."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import bounds
from convspectra._solvers import native
from convspectra._solvers.gram import Cells
from convspectra.bounds import auto
from convspectra.bounds.tapered_wave import tapered_wave_gain
from convspectra.cost import Cost
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of, scaled
from convspectra.supremum import gram, supremum
from convspectra.symbol import polyphase
from strategies import layers

ENGINES = ["native", "lapack"]


@pytest.fixture(params=ENGINES)
def engine(request, monkeypatch):
    if request.param == "lapack":
        monkeypatch.setattr(native, "tests_grams", lambda: False)
    elif not native.tests_grams():
        pytest.skip("the native core was not built")
    return request.param


def block_norms(kernel, geometry, points):
    """Norms of the blocks by plain sums over taps and input offsets, at angles shape (F, D) of the output."""
    c = geometry.correlation(kernel.shape)
    ordered = np.transpose(kernel, geometry.kernel_axes).astype(np.float64)
    rows, columns = c.out_channels // c.groups, c.in_channels // c.groups
    classes = list(itertools.product(*map(range, c.stride)))
    norms = np.zeros(len(points))
    for group in range(c.groups):
        blocks = np.zeros((len(points), rows, columns, len(classes)), dtype=np.complex128)
        for p in np.ndindex(*c.kernel_size):
            read = [d * q for d, q in zip(c.dilation, p, strict=True)]
            place = classes.index(tuple(r % s for r, s in zip(read, c.stride, strict=True)))
            strides = np.array([r // s for r, s in zip(read, c.stride, strict=True)])
            tap = ordered[(slice(group * rows, (group + 1) * rows), slice(None), *p)]
            blocks[..., place] += np.exp(1j * points @ strides)[:, None, None] * tap
        norms = np.maximum(norms, np.linalg.norm(blocks.reshape(len(points), rows, -1), 2, axis=(1, 2)))
    return norms


def fine_points(geometry, kernel, count=2000):
    axes = len(geometry.correlation(kernel.shape).stride)
    side = {1: count, 2: 40, 3: 12}[axes]
    grid = np.stack(np.meshgrid(*[np.arange(side) * 2 * np.pi / side] * axes, indexing="ij"), axis=-1)
    return grid.reshape(-1, axes)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_holds_the_norms_of_a_fine_grid(engine, dtype):
    @settings(max_examples=80)
    @given(layers(mode="zeros", dtype=dtype), st.sampled_from([1e-4, 1e-2]))
    def check(layer, width):
        kernel, geometry = layer
        norms = block_norms(kernel, geometry, fine_points(geometry, kernel))
        bound = bounds.duffin1938(kernel, geometry, width=width)
        # A constant symbol has an exact norm, up to rounding.
        rounding = 1e-6 if bound.exact and dtype is np.float32 else 1e-12
        assert float(bound.upper) * (1 + rounding) >= norms.max()
        assert float(bound.lower) <= float(bound.upper)
        found = supremum(scaled(problem_of(kernel, geometry))[0], width, 20_000)
        if bound.method == "duffin1938" and found.tests < 4_000:  # flat spectra take more than there are
            assert float(bound.upper) <= float(bound.lower) * (1 + width + 1e-6)

    check()


@settings(max_examples=60)
@given(layers(mode="zeros"))
def test_the_lower_end_is_a_norm_at_a_frequency(layer):
    kernel, geometry = layer
    problem, _ = scaled(problem_of(kernel, geometry))
    found = supremum(problem, 1e-4)
    if found is None:
        return
    there = block_norms(kernel, geometry, found.angles[None])[0]
    assert there * (1 - 1e-4) <= found.lower <= there * (1 + 1e-12)
    assert found.upper >= block_norms(kernel, geometry, fine_points(geometry, kernel)).max() * (1 - 1e-12)


@pytest.mark.skipif(not native.tests_grams(), reason="the native core was not built")
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
@pytest.mark.parametrize("rows", [2, 3, 4, 7, 16, 33])
def test_every_instruction_set_agrees_with_eigenvalues(instruction_set, rows, monkeypatch):
    test = partial(native.gram_test, instruction_set=instruction_set)
    monkeypatch.setattr(native, "gram_test", test)
    rng = np.random.default_rng(rows)
    kernel = rng.standard_normal((2 * rows, rows, 3, 2))
    problem = problem_of(kernel, cs.ConvGeometry((5, 5), groups=2))
    found = gram(problem)
    count = 21
    vectors = rng.standard_normal((2, 2 * count, rows))
    cells = Cells(
        rng.uniform(0, 2 * np.pi, (2 * count, 2)), np.repeat([0, 1], count), vectors[0] + 1j * vectors[1]
    )
    norms = np.array([np.linalg.eigvalsh(found.matrix(cells.at([place])))[-1] for place in range(2 * count)])
    for level in (0.5 * norms.min(), np.sort(norms)[count] * (1 + 1e-9), 2 * norms.max()):
        for steps in (0, 5):
            tested = found.test(cells, float(level), steps)
            np.testing.assert_array_equal(tested.below, norms <= level)
            assert (tested.quotients <= norms * (1 + 1e-12)).all()
    tested = found.test(cells, 0.0, 300)
    np.testing.assert_allclose(tested.quotients, norms, rtol=1e-2)


def test_both_engines_find_the_same(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((12, 9, 3, 3))
    geometry = cs.ConvGeometry((9, 9), padding=1)
    found = bounds.duffin1938(kernel, geometry)
    monkeypatch.setattr(native, "tests_grams", lambda: False)
    other = bounds.duffin1938(kernel, geometry)
    np.testing.assert_allclose(found.lower, other.lower, rtol=1e-4)
    assert other.lower <= found.upper
    assert found.lower <= other.upper


# ---- layers at their size


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_interval_of_a_padded_layer_holds_its_dense_norm(dtype, monkeypatch):
    monkeypatch.setattr(auto, "FEWEST_BLOCKS", 0)
    monkeypatch.setattr(auto, "of_matrix", lambda correlation: Cost(math.inf, math.inf))

    @settings(max_examples=120)
    @given(layers(mode="zeros", dtype=dtype))
    def check(layer):
        kernel, geometry = layer
        norm = np.linalg.norm(dense_operator(kernel, geometry).astype(np.float64), 2)
        problem, power = scaled(problem_of(kernel, geometry))
        if problem.correlation.is_circulant:
            return
        bound = auto._at_any_size(problem)
        if bound is None:
            return
        assert float(bound.lower) * power <= norm * (1 + 1e-13)
        assert norm <= float(bound.upper) * power * (1 + 1e-13)
        whole = cs.operator_norm(kernel, geometry)
        assert float(whole.lower) <= norm * (1 + 1e-13)
        assert norm <= float(whole.upper) * (1 + 1e-13) * (
            1 + (20 * np.finfo(dtype).eps if whole.exact else 0)
        )

    check()


def test_the_tapered_wave_is_applied_by_its_closed_form():
    rng = np.random.default_rng(0)
    for shape, size, options in (
        ((5, 3, 3, 3), (9, 12), {"padding": 1}),
        ((6, 4, 3, 2), (12, 14), {"stride": 2, "padding": 1}),
        ((3, 4, 4, 3), (12, 14), {"stride": (2, 3), "dilation": (3, 1), "padding": (2, 1)}),
        ((4, 2, 3), (11,), {"groups": 2, "padding": 2}),
    ):
        kernel, geometry = rng.standard_normal(shape), cs.ConvGeometry(size, **options)
        problem = problem_of(kernel, geometry)
        top = supremum(problem, 1e-3)
        c = problem.correlation
        wave = np.zeros((c.in_channels, *size), dtype=np.complex128)
        columns = c.in_channels // c.groups
        right = top.right.reshape(-1, columns)
        for place, part in enumerate(polyphase(c)):
            for m in np.ndindex(*size):
                shifted = [q + a for q, (a, _) in zip(m, c.padding, strict=True)]
                strides = [divmod(q - o, s) for q, o, s in zip(shifted, part.origin, c.stride, strict=True)]
                if any(left for _, left in strides):
                    continue
                turn = sum(r * angle for (r, _), angle in zip(strides, top.angles, strict=True))
                taper = math.prod(math.sin(math.pi * (q + 1) / (n + 1)) for q, n in zip(m, size, strict=True))
                channels = slice(top.group * columns, (top.group + 1) * columns)
                wave[(channels, *m)] += taper * np.exp(1j * turn) * right[place]
        image = dense_operator(kernel, geometry) @ wave.reshape(-1)
        gain = np.linalg.norm(image) / np.linalg.norm(wave)
        np.testing.assert_allclose(tapered_wave_gain(problem, top), gain, rtol=1e-10)


def test_large_maps_cost_no_more_than_small_ones():
    """Within 1 % of each other, by the same frequencies, whatever the size."""
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    for size in (64, 1024):
        bound = cs.operator_norm(kernel, cs.ConvGeometry((size, size), padding=1))
        assert bound.method == "duffin1938, tapered_wave"
        assert bound.lower <= bound.upper <= 1.01 * bound.lower


# ---- exact arithmetic


def is_positive(matrix):
    """Whether a Hermitian matrix of pairs of fractions has only positive pivots: elimination, exact."""
    rows = [list(row) for row in matrix]
    for k in range(len(rows)):
        pivot = rows[k][k][0]
        if pivot <= 0:
            return False
        for i in range(k + 1, len(rows)):
            a, b = (part / pivot for part in rows[i][k])
            for j in range(k + 1, len(rows)):
                c, d = rows[k][j]
                x, y = rows[i][j]
                rows[i][j] = (x - a * c + b * d, y - a * d - b * c)
    return True


def level_less_gram(kernel, level, waves):
    """`level^2 I - S S^H` in fractions, at an angle an axis whose cosine and sine are these fractions."""
    rows = kernel.shape[0]
    powers = []
    for (cosine, sine), size in zip(waves, kernel.shape[2:], strict=True):
        line = [(Fraction(1), Fraction(0))]
        for _ in range(size - 1):
            x, y = line[-1]
            line.append((x * cosine - y * sine, x * sine + y * cosine))
        powers.append(line)
    block = [[(Fraction(0), Fraction(0)) for _ in range(kernel.shape[1])] for _ in range(rows)]
    for o, i, *p in np.ndindex(*kernel.shape):
        x, y = Fraction(1), Fraction(0)
        for line, q in zip(powers, p, strict=True):
            c, s = line[q]
            x, y = x * c - y * s, x * s + y * c
        weight = Fraction(float(kernel[(o, i, *p)]))
        block[o][i] = (block[o][i][0] + weight * x, block[o][i][1] + weight * y)
    return [
        [
            (
                (Fraction(level) ** 2 if i == j else 0)
                - sum(a * c + b * d for (a, b), (c, d) in zip(u, v, strict=True)),
                -sum(b * c - a * d for (a, b), (c, d) in zip(u, v, strict=True)),
            )
            for j, v in enumerate(block)
        ]
        for i, u in enumerate(block)
    ]


RATIONAL = [
    (Fraction(sign * (m * m - n * n), m * m + n * n), Fraction(2 * m * n, m * m + n * n))
    for m in range(1, 8)
    for n in range(m + 1)
    for sign in (1, -1)
]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(3, 3), (5,), (2, 4)]), st.sampled_from([0, -8, 8]))
def test_the_upper_end_holds_in_exact_arithmetic(seed, taps, magnitude):
    rng = np.random.default_rng(seed)
    kernel = rng.integers(-50, 50, (3, 2, *taps)) * 10.0**magnitude
    if not kernel.any():
        return
    bound = bounds.duffin1938(kernel, cs.ConvGeometry((9,) * len(taps)))
    angles = [math.atan2(sine, cosine) for cosine, sine in RATIONAL]
    points = np.array(list(itertools.product(angles, repeat=len(taps))))
    norms = block_norms(kernel, cs.ConvGeometry((9,) * len(taps)), points)
    for place in np.argsort(-norms)[:4]:
        waves = [RATIONAL[q] for q in np.unravel_index(place, (len(RATIONAL),) * len(taps))]
        assert is_positive(level_less_gram(kernel, float(bound.upper), waves))


def test_both_ends_in_exact_arithmetic_where_the_top_is_at_zero():
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.float32):
        kernel = rng.integers(1, 50, (4, 3, 3, 3)).astype(dtype)
        bound = bounds.duffin1938(kernel, cs.ConvGeometry((9, 9)))
        at_zero = [(Fraction(1), Fraction(0))] * 2
        assert is_positive(level_less_gram(kernel, float(bound.upper), at_zero))
        assert not is_positive(level_less_gram(kernel, float(bound.lower), at_zero))
        assert float(bound.upper) <= float(bound.lower) * (1 + 1.01e-4)


# ---- special kernels

SAME = {"padding": "same"}


def test_constant_symbols_have_no_width(engine):
    identity = np.zeros((8, 8, 3, 3))
    identity[range(8), range(8), 1, 1] = 1
    for kernel in (identity, identity[..., :1, :1] + np.eye(8)[..., None, None], 1e-300 * identity):
        norm = np.linalg.norm(kernel.sum(axis=(2, 3)) / kernel.max(), 2) * kernel.max()
        bound = bounds.duffin1938(kernel, cs.ConvGeometry((5, 5)))
        assert bound.lower <= norm <= bound.upper * (1 + 1e-15)
        assert bound.upper <= bound.lower * (1 + 1e-9)


@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-310, 1e-150, 1e150])
def test_any_scale(engine, scale):
    kernel = np.random.default_rng(0).integers(-9, 9, (4, 5, 3, 3)) * scale
    bound = bounds.duffin1938(kernel, cs.ConvGeometry((4, 4), padding=1))
    one = bounds.duffin1938(kernel / (scale or 1), cs.ConvGeometry((4, 4), padding=1))
    assert bound.lower <= bound.upper
    if scale in (0.0, 1e-150, 1e150):
        np.testing.assert_allclose(bound.upper, one.upper * scale, rtol=1e-4)
        np.testing.assert_allclose(bound.lower, one.lower * scale, rtol=1e-4)
    norms = block_norms(
        kernel / (scale or 1), cs.ConvGeometry((4, 4)), fine_points(cs.ConvGeometry((4, 4)), kernel)
    )
    assert bound.upper >= norms.max() * scale * (1 - 1e-12)


def test_flat_spectra_end_early_and_hold(engine):
    """Orthogonal: every frequency has the norm 1, and no cell can be left out before it is small."""
    left, right = (np.linalg.qr(np.random.default_rng(n).standard_normal((6, 6)))[0] for n in (0, 1))
    kernel = np.zeros((6, 6, 3, 1))
    kernel[:3, :, 0, 0], kernel[3:, :, 2, 0] = left[:3] @ right, left[3:] @ right
    kernel = np.einsum("oipq,ij->ojpq", kernel, right)
    kernel = np.concatenate([kernel[..., :3, :], 0 * kernel[..., :3, :]], axis=3)
    problem = problem_of(kernel, cs.ConvGeometry((9, 9)))
    found = supremum(problem, 1e-4, most=100)
    assert found.tests <= 300
    assert found.lower <= 1 + 1e-12
    assert 1 - 1e-12 <= found.upper <= 1.1


def test_cancelling_taps_keep_an_honest_interval(engine):
    kernel = np.array([[[1.0, -2.0, 1.0]]]) * (1 + 1e-15 * np.arange(3))
    kernel = np.concatenate([kernel, -kernel], axis=1)
    bound = bounds.duffin1938(kernel - kernel.mean(), cs.ConvGeometry(9))
    norms = block_norms(kernel - kernel.mean(), cs.ConvGeometry(9), fine_points(cs.ConvGeometry(9), kernel))
    assert bound.upper >= norms.max() * (1 - 1e-12)
    nothing = np.array([[[1.0], [-1.0]]])[:, :, :]
    assert bounds.duffin1938(nothing, cs.ConvGeometry(3)).upper >= math.sqrt(2) * (1 - 1e-15)


def test_size_stride_and_kernels_larger_than_the_input_do_not_matter():
    kernel = np.random.default_rng(0).standard_normal((3, 2, 5, 4))
    small = cs.ConvGeometry((2, 3), padding=4, stride=(2, 1), dilation=(1, 2))
    for size in ((40, 50), (7, 9)):
        assert bounds.duffin1938(kernel, replace(small, input_shape=size)) == bounds.duffin1938(kernel, small)


def test_memory_that_is_too_little_and_derivatives_take_the_grid():
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    geometry = cs.ConvGeometry((9, 9), padding=1)
    little = bounds.duffin1938(kernel, geometry, compute=cs.Compute(memory=1000))
    assert little.method == "pfister2018"
    torch = pytest.importorskip("torch")
    tracked = bounds.duffin1938(torch.tensor(kernel, requires_grad=True), geometry)
    assert tracked.method == "pfister2018"
    assert bounds.duffin1938(torch.tensor(kernel), geometry).method == "duffin1938"


@pytest.mark.parametrize("width", [0, -1, 0.2, math.nan, "wide"])
def test_widths_that_are_none(width):
    with pytest.raises(cs.InputError, match="width must be positive and at most"):
        bounds.duffin1938(np.ones((1, 1, 3)), cs.ConvGeometry(5), width=width)
