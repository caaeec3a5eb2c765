"""Promises in exact comparison: by fractions, and by dense matrices of random layers at many sizes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra.bounds.copy_count import copies_at_any_size
from convspectra.guarantee import target_of
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of
from strategies import layers

MOVES = pytest.mark.parametrize("move", [cs.rescale, cs.project], ids=lambda move: move.__name__)
COPIES = st.sampled_from(["reflect", "replicate", "circular"])


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def is_at_most(matrix, limit):
    """Whether the norm of a matrix of floats is at most a limit, decided in rational arithmetic.

    `limit^2 I - A^T A` is positive semidefinite exactly where its elimination meets no negative pivot, and
    nothing beside a pivot of zero.
    """
    rows = [[Fraction(float(entry)) for entry in row] for row in np.asarray(matrix)]
    side = len(rows[0])
    left = [[-sum(row[i] * row[j] for row in rows) for j in range(side)] for i in range(side)]
    for i in range(side):
        left[i][i] += Fraction(limit) ** 2
    for k in range(side):
        if left[k][k] < 0 or (left[k][k] == 0 and any(left[k][j] for j in range(k, side))):
            return False
        for i in range(k + 1, side if left[k][k] else 0):
            share = left[i][k] / left[k][k]
            left[i] = [a - share * b for a, b in zip(left[i], left[k], strict=True)]
    return True


def test_the_oracle_knows_a_norm_from_the_next_number():
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])  # not exactly one, as 0.6 and 0.8 are not
    assert is_at_most(np.eye(3), 1.0)
    assert not is_at_most(np.eye(3), np.nextafter(1.0, 0))
    assert is_at_most(rotation, 1 + 1e-15) != is_at_most(rotation, 1 - 1e-15)


@MOVES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [0.1, 0.7, 1.1, 1 / 3])
def test_a_limit_that_the_precision_does_not_have(move, dtype, limit):
    for size in (1, 4):
        kept = move(np.full((1, 1, 1, 1), limit, dtype), torus((size, size)), limit)
        assert Fraction(float(kept.kernel[0, 0, 0, 0])) <= Fraction(limit)
        assert float(kept.kernel[0, 0, 0, 0]) >= limit * (1 - 200 * np.finfo(dtype).eps)
        assert float(kept.norm) <= limit


@MOVES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_taps_that_wrap_and_cancel(move, dtype):
    """On a torus of one point the operator is the sum of the taps: a matrix of fractions."""
    for seed in range(25):
        kernel = np.random.default_rng(seed).standard_normal((2, 2, 3, 3)).astype(dtype)
        limit = 1e-4 * float(cs.operator_norm(kernel, torus((1, 1))).upper)
        moved = move(kernel, torus((1, 1)), limit).kernel
        taps = moved.reshape(2, 2, 9)
        sums = [[sum(Fraction(float(tap)) for tap in taps[i, j]) for j in range(2)] for i in range(2)]
        gram = [[sum(row[i] * row[j] for row in sums) for j in range(2)] for i in range(2)]
        slack = [Fraction(limit) ** 2 - gram[i][i] for i in range(2)]
        assert min(slack) >= 0
        assert slack[0] * slack[1] >= gram[0][1] ** 2


@pytest.mark.slow
@MOVES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_is_at_most_its_limit_in_rational_arithmetic(move, dtype):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kernel = rng.standard_normal((4, 3, 1)).astype(dtype)
        norm = float(np.linalg.norm(kernel[..., 0].astype(np.float64), 2))
        for limit in (norm * 0.3, norm, np.nextafter(norm, 0), norm * (1 + 1e-8), norm * (1 - 1e-8)):
            moved = move(kernel, torus((5,)), float(limit)).kernel
            assert is_at_most(moved[..., 0], float(limit))


@MOVES
def test_a_kernel_whose_norm_is_the_limit_itself_stays(move):
    rng = np.random.default_rng(0)
    shuffled = np.zeros((4, 4, 3, 3), np.float32)
    shuffled[np.arange(4), rng.permutation(4), 1, 1] = 0.7
    for kernel in (np.eye(3).reshape(3, 3, 1, 1), np.ones((1, 1, 2, 2)) / 4, shuffled, 0 * shuffled):
        limit = float(np.abs(kernel).reshape(len(kernel), -1).sum(axis=1).max()) or 1.0
        kept = move(kernel, torus((6, 6)), limit)
        np.testing.assert_array_equal(kept.kernel, kernel)


def at_sizes(kernel, geometry):
    """The layer at every small size at which it has outputs, and reflection something to mirror."""
    axes, found = geometry.axes, []
    for size in np.ndindex(*(7 if axes == 1 else 5,) * axes) if axes < 3 else ():
        one = replace_size(geometry, tuple(n + 1 for n in size))
        try:
            correlation = one.correlation(kernel.shape)
        except cs.GeometryError:
            continue
        if not (geometry.padding_mode == "reflect" and 1 in correlation.input_shape):
            found.append(one)
    return found


def replace_size(geometry, size):
    options = {
        name: getattr(geometry, name) for name in ("stride", "dilation", "groups", "padding", "layout")
    }
    return cs.ConvGeometry(size, padding_mode=geometry.padding_mode, **options)


@settings(max_examples=100)
@given(COPIES.flatmap(lambda mode: layers(mode=mode)), st.sampled_from([np.float32, np.float64]))
def test_any_size_is_any_size_for_layers_that_copy_their_input(layer, dtype):
    kernel, geometry = layer
    assume(not geometry.transposed)
    kernel = kernel.astype(dtype)
    limit = 0.6 * float(np.abs(kernel).sum()) / max(kernel.shape) or 1.0
    moved = cs.rescale(kernel, geometry, limit, guarantee="any_size").kernel.astype(np.float64)
    for one in (geometry, *at_sizes(kernel, geometry)):
        assert np.linalg.norm(dense_operator(moved, one), 2) <= limit


@settings(max_examples=100)
@given(layers(mode="circular"), st.sampled_from([0.3, 0.999]))
def test_the_torus_of_a_layer_that_wraps_is_the_layer(layer, share):
    kernel, geometry = layer
    limit = share * np.linalg.norm(dense_operator(kernel, geometry), 2)
    assume(limit > 1e-9)
    for guarantee in ("torus", "layer"):
        kept = cs.rescale(kernel, geometry, limit, guarantee=guarantee)
        assert np.linalg.norm(dense_operator(kept.kernel, geometry), 2) <= limit


def test_factors_of_common_layers_at_any_size():
    """Of the squared norm: those at a generic size, which tiny inputs do not raise where they need not."""
    kernel = np.zeros((1, 1, 3))

    def copies(mode, **options):
        return copies_at_any_size(
            cs.ConvGeometry(8, padding_mode=mode, **{"padding": 1, **options}).correlation(kernel.shape)
        )

    assert copies("zeros") == 1
    assert copies("circular") == 1
    assert copies("reflect") == copies("replicate") == 2
    assert copies("circular", stride=2) == copies("reflect", stride=2) == 2
    assert copies("circular", padding=0) == copies("reflect", padding=0) == 1
    with pytest.raises(cs.GeometryError, match=r"any_size.*take guarantee='layer'"):
        copies("reflect", dilation=10_000, padding=10_000)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_the_torus_says_nothing_about_layers_that_mirror_or_repeat(mode):
    kernel, geometry = np.ones((2, 2, 3)), cs.ConvGeometry(8, padding=1, padding_mode=mode)
    for move in (cs.rescale, cs.project, cs.clip):
        with pytest.raises(cs.GeometryError, match=f"'torus' says nothing about padding_mode='{mode}'"):
            move(kernel, geometry, 1.0, guarantee="torus")
        assert move(kernel, geometry.on_torus(), 1.0).norm is not None


def test_one_function_decides_in_every_precision():
    """Whether it is the float32 kernel or the same numbers in float64 that is asked about."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        kernel = rng.standard_normal((3, 4, 3)).astype(np.float32)
        held = [target_of(problem_of(kernel.astype(d), torus(8)), "torus") for d in (np.float32, np.float64)]
        norm = float(held[1].norm)
        for limit in (norm * (1 - 1e-9), norm * (1 + 1e-9)):
            wide = held[1].keeps(limit)
            assert wide == (limit > norm)
            if not wide:  # the float32 norm may round to above a limit that is kept
                assert not held[0].keeps(limit)
    assert held[0].moved(0 * held[0].kernel).keeps(1e-300)


@pytest.mark.parametrize("value", ["1.0", None, 1j, True, float("nan"), -1, [1.0, 2.0]])
def test_a_limit_that_is_no_number_is_named(value):
    for move in (cs.rescale, cs.project, cs.clip):
        with pytest.raises(cs.InputError, match=r"^max_norm"):
            move(np.ones((2, 2, 3)), torus(8), value)
    with pytest.raises(cs.InputError, match=r"^tolerance"):
        cs.project(np.ones((2, 2, 3)), torus(8), 1.0, tolerance=value)
    with pytest.raises(cs.InputError, match=r"^guarantee"):
        cs.rescale(np.ones((2, 2, 3)), torus(8), 1.0, guarantee=value)


def test_a_limit_beyond_what_squares_can_hold_is_refused():
    kernel = np.random.default_rng(0).standard_normal((3, 4, 3)) * 1e147
    with pytest.raises(cs.KernelError, match=r"so far above max_norm=1e-176 .*: rescale the kernel first"):
        cs.project(kernel, torus(8), 1e-176)
    assert float(cs.rescale(kernel, torus(8), 1e-176).norm) <= 1e-176


@MOVES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_layer_that_copies_its_input_gives_one_percent_away(move, dtype, mode):
    """Not the root of the number of copies, which is 2 here."""
    for seed in range(4):
        kernel = np.random.default_rng(seed).standard_normal((3, 4, 3, 3)).astype(dtype)
        geometry = cs.ConvGeometry((6, 7), padding=1, padding_mode=mode)
        moved = move(kernel, geometry, 1.0)
        norm = np.linalg.norm(dense_operator(moved.kernel, geometry), 2)
        assert 0.989 <= norm <= float(moved.norm) <= 1.0
        before = np.linalg.norm(dense_operator(kernel, geometry), 2)
        assert before * (1 - 1e-6) <= float(moved.norm_before) <= 1.0101 * before
        again = move(moved.kernel, geometry, 1.0)
        np.testing.assert_array_equal(again.kernel, moved.kernel)
        assert norm <= float(again.norm) <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_proven_of_a_kernel_is_proven_of_its_multiples(dtype):
    kernel = np.random.default_rng(0).standard_normal((3, 4, 3, 3)).astype(dtype)
    geometry = cs.ConvGeometry((6, 7), padding=1, padding_mode="reflect")
    target = target_of(problem_of(kernel, geometry), "layer")
    before = float(target.norm)
    for factor in (1e-3, 0.7, 1e5):
        times = target.times(factor)
        norm = np.linalg.norm(dense_operator(times.kernel, geometry), 2)
        assert norm <= float(times.norm) <= factor * before * (1 + 1000 * np.finfo(dtype).eps)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    for factor in (smallest, 3 * smallest, 50 * smallest):  # entries are rounded by large parts of themselves
        times = target.times(factor)
        norm = np.linalg.norm(dense_operator((times.kernel / smallest).astype(np.float64), geometry), 2)
        assert norm * smallest <= float(times.norm)


def test_a_factorisation_decides_at_every_limit():
    kernel = np.random.default_rng(0).standard_normal((3, 4, 3, 3))
    geometry = cs.ConvGeometry((6, 7), padding=1, padding_mode="replicate")
    norm = np.linalg.norm(dense_operator(kernel, geometry), 2)
    for below in (1e-2, 1e-6, 1e-10):
        assert target_of(problem_of(kernel, geometry), "layer").keeps(norm * (1 + below))
        assert not target_of(problem_of(kernel, geometry), "layer").keeps(norm * (1 - below))
