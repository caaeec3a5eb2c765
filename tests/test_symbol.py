"""The symbol and its adjoint."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
from hypothesis import assume, given, settings

import convspectra as cs
from convspectra.symbol import frequency_grid, polyphase, symbol_adjoint, symbol_blocks
from strategies import layers, plain_symbol, prepare


def parts(layer):
    kernel, correlation = prepare(*layer)
    return kernel, correlation, frequency_grid(correlation)


def test_stride_one_blocks_are_the_definition():
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3, 4))
    shape, dilation = (5, 8), (2, 1)
    geometry = cs.ConvGeometry(shape, dilation=dilation, padding="same", padding_mode="circular")
    _, correlation, grid = parts((kernel, geometry))
    blocks = symbol_blocks(kernel, correlation, grid)
    for block, frequency in zip(blocks[:, 0], grid.index, strict=True):
        np.testing.assert_allclose(block, plain_symbol(kernel, frequency, shape, dilation), atol=1e-14)


@settings(max_examples=100)
@given(layers())
def test_every_tap_has_one_class_and_every_frequency_one_block(layer):
    _, correlation, grid = parts(layer)
    taps = np.concatenate([part.taps for part in polyphase(correlation)])
    assert sorted(taps) == list(range(math.prod(correlation.kernel_size)))
    for part in polyphase(correlation):
        assert min(map(min, part.offsets)) == 0
    assert grid.multiplicity.sum() == math.prod(grid.shape)
    ones = grid.spread(grid.multiplicity)
    assert ones.shape == grid.shape
    assert ones.min() > 0


@settings(max_examples=100)
@given(layers())
def test_adjoint_law(layer):
    kernel, correlation, grid = parts(layer)
    rng = np.random.default_rng(0)
    image = symbol_blocks(kernel, correlation, grid)
    other = rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape)
    weights = grid.multiplicity[:, None, None, None]
    left = (weights * (image * other.conj()).real).sum()
    right = (kernel * symbol_adjoint(other, correlation, grid)).sum()
    scale = 1 + np.abs(image).sum() * np.abs(weights * other).max()
    assert abs(left - right) <= 1e-13 * scale


@settings(max_examples=100)
@given(layers())
def test_adjoint_undoes_the_symbol_where_no_tap_wraps(layer):
    kernel, correlation, grid = parts(layer)
    assume(all(r < n for r, n in zip(correlation.reach, correlation.input_shape, strict=True)))
    back = symbol_adjoint(symbol_blocks(kernel, correlation, grid), correlation, grid)
    np.testing.assert_allclose(back / math.prod(grid.shape), kernel, atol=1e-13)


@settings(max_examples=50)
@given(layers())
def test_ranges_of_frequencies_add_up(layer):
    kernel, correlation, grid = parts(layer)
    count = len(grid.index)
    cut = count // 2
    blocks = symbol_blocks(kernel, correlation, grid)
    pieces = [symbol_blocks(kernel, correlation, grid.between(*ends)) for ends in ((0, cut), (cut, count))]
    np.testing.assert_allclose(np.concatenate(pieces), blocks, atol=1e-13)
    whole = symbol_adjoint(blocks, correlation, grid)
    total = symbol_adjoint(blocks[:cut], correlation, grid.between(0, cut))
    total = total + symbol_adjoint(blocks[cut:], correlation, grid.between(cut, count))
    np.testing.assert_allclose(total, whole, atol=1e-12 * (1 + np.abs(whole).max()))


def test_grids_are_kept_unless_they_are_large():
    small, large = (
        cs.ConvGeometry(n, padding="same", padding_mode="circular").correlation((1, 1, 3)) for n in (8, 2**19)
    )
    assert frequency_grid(small) is frequency_grid(small)
    assert frequency_grid(large) is not frequency_grid(large)


def test_phases_of_a_few_frequencies_take_no_table_of_a_long_axis():
    geometry = cs.ConvGeometry(2**18 - 1, padding=1, padding_mode="circular")
    grid = frequency_grid(geometry.correlation((1, 1, 3)))
    offsets = np.array([[0], [1], [2]])
    tracemalloc.start()
    try:
        found = grid.between(1000, 1064).phases(offsets)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()
    turns = np.multiply.outer(offsets[:, 0], np.arange(1000, 1064)) / (2**18 - 1)
    assert np.array_equal(found, np.exp(2j * np.pi * turns))
