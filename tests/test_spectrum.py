"""Exact spectra: against the dense operator for every geometry, and the laws they obey."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra.operators.reference import dense_operator
from strategies import layers, plain_symbol


def dense_values(kernel, geometry):
    return np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


@settings(max_examples=300)
@given(layers())
def test_equals_the_dense_operator(layer):
    kernel, geometry = layer
    expected = dense_values(kernel, geometry)
    spectrum = cs.singular_values(kernel, geometry)
    assert spectrum.count == expected.size
    np.testing.assert_allclose(spectrum.sorted(), expected, rtol=0, atol=2e-13 * max(1, expected[0]))


@settings(max_examples=100)
@given(layers(dtype=np.float32))
def test_float32_stays_float32_and_is_as_accurate(layer):
    kernel, geometry = layer
    expected = dense_values(kernel, geometry)
    values = cs.singular_values(kernel, geometry).sorted()
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * max(1, expected[0]))


@settings(max_examples=100)
@given(layers(), st.data())
def test_singular_vectors_belong_to_the_operator(layer, data):
    kernel, geometry = layer
    operator = dense_operator(kernel, geometry)
    decomposition = cs.svd(kernel, geometry)
    where = [data.draw(st.integers(0, size - 1)) for size in decomposition.values.shape]
    u, sigma, v = decomposition.vectors(*where)
    scale = max(1.0, float(np.abs(operator).sum()))
    np.testing.assert_allclose(operator @ v.ravel(), sigma * u.ravel(), atol=1e-12 * scale)
    np.testing.assert_allclose(operator.T @ u.ravel(), sigma * v.ravel(), atol=1e-12 * scale)
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1)


@settings(max_examples=60)
@given(layers())
def test_every_statistic_follows_its_definition(layer):
    kernel, geometry = layer
    sigma = dense_values(kernel, geometry)
    spectrum = cs.singular_values(kernel, geometry)
    close = {"rtol": 1e-9, "atol": 1e-12 * max(1, sigma[0])}
    np.testing.assert_allclose(spectrum.norm, sigma.max(), **close)
    read = sigma[: sigma.size - spectrum.structural_zeros]
    np.testing.assert_allclose(spectrum.smallest, read.min(), **close)
    np.testing.assert_allclose(spectrum.nuclear_norm, sigma.sum(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(spectrum.frobenius_norm, np.linalg.norm(sigma), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(spectrum.schatten_norm(3), (sigma**3).sum() ** (1 / 3), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        spectrum.quantiles([0, 0.3, 0.5, 1]), np.quantile(sigma, [0, 0.3, 0.5, 1]), **close
    )
    if sigma[0] > 1e-8:
        p = sigma / sigma.sum()
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        np.testing.assert_allclose(spectrum.effective_rank, np.exp(entropy), rtol=1e-9)
        np.testing.assert_allclose(spectrum.stable_rank, (sigma**2).sum() / sigma[0] ** 2, rtol=1e-9)
    threshold = 1e-6 * max(1, sigma[0])
    assert spectrum.rank(threshold) == (sigma > threshold).sum()
    if read[-1] > 1e-6:
        np.testing.assert_allclose(spectrum.condition_number, sigma[0] / read[-1], rtol=1e-6)
    if sigma[-1] > 1e-6:
        np.testing.assert_allclose(spectrum.log_volume, np.log(sigma).sum(), rtol=1e-6, atol=1e-6)


def test_zero_operator_has_no_nan():
    spectrum = cs.singular_values(np.zeros((2, 3, 3, 3)), torus((4, 5)))
    assert spectrum.count == 40
    assert spectrum.norm == spectrum.smallest == spectrum.stable_rank == spectrum.effective_rank == 0
    assert spectrum.rank() == 0
    assert spectrum.condition_number == math.inf
    assert spectrum.log_volume == -math.inf


@settings(max_examples=60)
@given(layers(), st.floats(1e-3, 1e3))
def test_laws_scaling_and_channel_permutation(layer, factor):
    kernel, geometry = layer
    values = cs.singular_values(kernel, geometry).sorted()
    tolerance = 1e-12 * max(1, values[0])
    np.testing.assert_allclose(
        cs.singular_values(factor * kernel, geometry).sorted(), factor * values, atol=factor * tolerance
    )
    divided = geometry.layout.index("O" if geometry.transposed else "I")
    flipped = np.flip(kernel, axis=divided)
    np.testing.assert_allclose(cs.singular_values(flipped, geometry).sorted(), values, atol=tolerance)
    taps = tuple(geometry.layout.index(letter) for letter in geometry.layout if letter not in "OI")
    mirrored = np.flip(kernel, axis=taps)
    np.testing.assert_allclose(cs.singular_values(mirrored, geometry).sorted(), values, atol=tolerance)


@settings(max_examples=60)
@given(layers())
def test_law_transposed_layer_is_the_adjoint(layer):
    kernel, geometry = layer
    correlation = geometry.correlation(kernel.shape)
    other_size = correlation.input_shape if geometry.transposed else correlation.output_shape
    swapped = str.maketrans("OI", "IO")
    adjoint = replace(
        geometry,
        input_shape=other_size,
        transposed=not geometry.transposed,
        layout=geometry.layout.translate(swapped),
    )
    values = cs.singular_values(kernel, geometry).sorted()
    np.testing.assert_allclose(cs.singular_values(kernel, adjoint).sorted(), values, rtol=0, atol=1e-13)
    pair = dense_operator(kernel, geometry), dense_operator(kernel, adjoint)
    # The same up to a shift of the torus: their Gram spectra agree, and so do their entries.
    np.testing.assert_allclose(np.sort(pair[0].ravel()), np.sort(pair[1].ravel()))


@settings(max_examples=60)
@given(layers())
def test_law_frobenius_identity_where_no_tap_wraps(layer):
    kernel, geometry = layer
    correlation = geometry.correlation(kernel.shape)
    assume(all(r < n for r, n in zip(correlation.reach, correlation.input_shape, strict=True)))
    expected = correlation.points * (kernel**2).sum()
    np.testing.assert_allclose(cs.singular_values(kernel, geometry).frobenius_norm ** 2, expected, atol=1e-12)


def test_law_composition_with_1x1_kernels():
    rng = np.random.default_rng(1)
    first, last = rng.standard_normal((5, 3)), rng.standard_normal((4, 6))
    middle = rng.standard_normal((6, 5, 3, 3))
    whole = np.einsum("ab,bcpq,cd->adpq", last, middle, first)
    geometry = torus((6, 4))
    product = cs.singular_values(whole, geometry)
    norms = [np.linalg.norm(m, 2) for m in (first, last)]
    assert product.norm <= cs.singular_values(middle, geometry).norm * math.prod(norms) * (1 + 1e-12)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    rotated = np.einsum("ab,bcpq->acpq", rotation, middle)
    np.testing.assert_allclose(
        cs.singular_values(rotated, geometry).sorted(),
        cs.singular_values(middle, geometry).sorted(),
        atol=1e-12,
    )


def test_law_refinement_a_finer_torus_contains_the_coarser():
    kernel = np.random.default_rng(2).standard_normal((3, 2, 3, 3))
    coarse = cs.singular_values(kernel, torus((4, 6)))
    fine = cs.singular_values(kernel, torus((8, 12)))
    np.testing.assert_allclose(fine.frequency_map()[::2, ::2], coarse.frequency_map(), atol=1e-12)
    assert fine.norm >= coarse.norm * (1 - 1e-14)


def test_strided_blocks_are_those_of_the_alias_formula():
    rng = np.random.default_rng(3)
    kernel, shape, stride, dilation = rng.standard_normal((3, 2, 3, 4)), (6, 8), (2, 4), (2, 1)
    coarse = tuple(n // s for n, s in zip(shape, stride, strict=True))
    expected = []
    for g in np.ndindex(*coarse):
        aliases = [
            plain_symbol(
                kernel, [gi + c * j for gi, c, j in zip(g, coarse, js, strict=True)], shape, dilation
            )
            for js in np.ndindex(*stride)
        ]
        block = np.concatenate(aliases, axis=1) / math.sqrt(math.prod(stride))
        expected.append(np.linalg.svd(block, compute_uv=False))
    spectrum = cs.singular_values(kernel, torus(shape, stride=stride, dilation=dilation))
    np.testing.assert_allclose(spectrum.sorted(), np.sort(np.ravel(expected))[::-1], atol=1e-13)
    largest = np.max(expected, axis=1).reshape(coarse)
    np.testing.assert_allclose(spectrum.frequency_map(), largest, atol=1e-13)


@pytest.mark.parametrize(
    ("kernel_shape", "options", "blocks"),
    [
        ((8, 4, 1, 1), {}, 1),  # no spatial extent
        ((8, 4, 1, 1), {"stride": 2}, 1),
        ((8, 3, 4, 4), {"stride": 4}, 1),  # patches that do not overlap
        ((8, 4, 3, 3), {}, 16 * 16 // 2 + 2),  # half of the frequencies, four of them alone
        ((8, 4, 3, 3), {"dilation": 4}, 4 * 4 // 2 + 2),  # dilation repeats the symbol
        ((8, 4, 1, 3), {}, 16 // 2 + 1),  # one axis without extent
    ],
)
def test_no_block_is_solved_twice(kernel_shape, options, blocks):
    kernel = np.random.default_rng(4).standard_normal(kernel_shape)
    spectrum = cs.singular_values(kernel, torus((16, 16), **options))
    assert len(spectrum.values) == blocks
    assert spectrum.multiplicity.sum() == math.prod(spectrum.grid.shape)


def test_depthwise_uses_no_svd(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an SVD was called for scalar blocks")

    monkeypatch.setattr(np.linalg, "svd", refuse)
    monkeypatch.setattr(np.linalg, "svdvals", refuse)
    kernel = np.random.default_rng(5).standard_normal((6, 1, 3, 3))
    spectrum = cs.singular_values(kernel, torus((8, 8), groups=6))
    expected = np.abs(np.fft.fft2(kernel[:, 0], (8, 8))).ravel()
    np.testing.assert_allclose(spectrum.sorted(), np.sort(expected)[::-1], atol=1e-13)


SPAWNED = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))  # forking a threaded process may hang


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, SPAWNED], ids=["threads", "processes"])
def test_any_executor_and_any_memory_give_the_same_numbers(executor):
    kernel = np.random.default_rng(6).standard_normal((24, 20, 3, 3))
    geometry = torus((12, 12))
    alone = cs.singular_values(kernel, geometry)
    with executor(2) as workers:
        shared = cs.singular_values(kernel, geometry, compute=cs.Compute(workers, 2**18))
    np.testing.assert_allclose(alone.values, shared.values, atol=1e-12)


def test_memory_bounds_the_blocks_in_flight(monkeypatch):
    from convspectra import spectrum as module

    sizes = []
    genuine = module.symbol_blocks

    def recording(kernel, correlation, grid):
        blocks = genuine(kernel, correlation, grid)
        sizes.append(blocks.nbytes)
        return blocks

    monkeypatch.setattr(module, "symbol_blocks", recording)
    kernel = np.random.default_rng(7).standard_normal((16, 16, 3, 3))
    with ThreadPoolExecutor(2) as workers:
        cs.singular_values(kernel, torus((32, 32)), compute=cs.Compute(workers, 2**20, "lapack"))
    assert max(sizes) <= 2**20 // 2


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (torus((7, 8), stride=2), "6 or 8 instead of 7"),
        (cs.ConvGeometry((8, 8), padding=1), "on_torus"),
        (cs.ConvGeometry((8, 8)), "on_torus"),
        (cs.ConvGeometry((8, 8), padding=2, padding_mode="circular"), "block-circulant"),
        (cs.ConvGeometry((8,), padding=1), "kernel must have 3 axes"),
    ],
)
def test_what_has_no_symbol_is_refused_with_the_next_step(geometry, words):
    with pytest.raises(cs.GeometryError, match=words):
        cs.singular_values(np.ones((2, 2, 3, 3)), geometry)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite_is_refused(bad):
    kernel = np.ones((2, 2, 3, 3))
    kernel[1, 0, 2, 1] = bad
    with pytest.raises(
        cs.KernelError, match=r"1 NaN or infinite entries of 36, the first at index \(1, 0, 2, 1\)"
    ):
        cs.singular_values(kernel, torus((4, 4)))


def test_what_is_no_real_array_is_refused():
    with pytest.raises(cs.KernelError, match="got list"):
        cs.singular_values([[1.0]], torus((4, 4)))
    with pytest.raises(cs.KernelError, match="real numbers"):
        cs.singular_values(np.ones((1, 1, 1, 1), dtype=complex), torus((4, 4)))
    with pytest.raises(cs.InputError, match=r"^memory"):
        cs.Compute(memory=0)
    with pytest.raises(cs.InputError, match=r"^p "):
        cs.singular_values(np.ones((1, 1, 1, 1)), torus((4, 4))).schatten_norm(0.5)
    with pytest.raises(cs.InputError, match=r"^q "):
        cs.singular_values(np.ones((1, 1, 1, 1)), torus((4, 4))).quantiles(2)


def test_tiny_and_huge_kernels_keep_their_norm():
    kernel = np.random.default_rng(8).standard_normal((4, 4, 3, 3)).astype(np.float32)
    geometry = torus((6, 6))
    norm = cs.operator_norm(kernel, geometry).upper
    for scale in (np.float32(2.0**-80), np.float32(2.0**80)):
        np.testing.assert_allclose(cs.operator_norm(scale * kernel, geometry).upper, scale * norm, rtol=1e-5)
        assert np.isfinite(cs.singular_values(scale * kernel, geometry).frobenius_norm)
