"""Geometries: normal form, refusals, and the oracle itself against a framework's convolutions."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings

import convspectra as cs
from convspectra import ConvGeometry, GeometryError
from convspectra.operators.reference import dense_operator
from strategies import layers


def test_normal_form_is_one_value_an_axis():
    geometry = ConvGeometry([32, np.int64(16)], stride=2, padding=(1, 2), dilation=[1, 3])
    assert geometry == ConvGeometry((32, 16), (2, 2), (1, 3), padding=((1, 1), (2, 2)), layout="OIHW")
    assert hash(geometry) == hash(replace(geometry))
    assert ConvGeometry(7).input_shape == (7,)
    assert ConvGeometry(7, transposed=True).layout == "IOW"
    assert ConvGeometry((4, 4, 4), padding="valid").padding == ((0, 0),) * 3
    with pytest.raises(FrozenInstanceError):
        geometry.groups = 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": ()}, "1, 2 or 3 spatial axes"),
        ({"input_shape": (1, 2, 3, 4)}, "1, 2 or 3 spatial axes"),
        ({"input_shape": (0, 4)}, "input_shape must be at least 1"),
        ({"input_shape": (4, -4)}, "input_shape must be at least 1"),
        ({"input_shape": (4.0, 4)}, "input_shape must be an integer"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"stride": (1, 2, 3)}, "stride must be one integer or 2"),
        ({"dilation": True}, "dilation must be an integer"),
        ({"groups": "2"}, "groups must be an integer"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"padding": "full"}, '"same", "valid"'),
        ({"padding": np.array(1.5)}, "padding must be an integer"),
        ({"stride": np.array([1, 2, 3])}, "stride must be one integer or 2"),
        ({"padding_mode": np.zeros(2)}, "padding_mode must be one of"),
        ({"padding": ((1, 1), (1, 1), (1, 1))}, "pair for each of 2 axes"),
        ({"padding": ((1, 1), 1)}, "pair for each of 2 axes"),
        ({"padding_mode": "wrap"}, "zeros, circular, reflect, replicate"),
        ({"layout": "OIW"}, "each letter of OIHW once"),
        ({"layout": "OIHH"}, "each letter of OIHW once"),
        ({"output_padding": 1}, "transposed"),
        ({"transposed": 1}, "True or False"),
    ],
)
def test_contradictions_are_refused_by_name(arguments, words):
    with pytest.raises(GeometryError, match=words):
        ConvGeometry(**({"input_shape": (8, 8)} | arguments))


def test_arrays_are_numbers_and_lists():
    one, two = np.array(1), np.array([1, 2])
    given = ConvGeometry(np.array([8, 8]), stride=one, dilation=two, padding=two, groups=one)
    assert given == ConvGeometry((8, 8), dilation=(1, 2), padding=(1, 2))
    assert ConvGeometry(np.array(8), padding=one) == ConvGeometry((8,), padding=1)


@pytest.mark.parametrize(
    ("geometry", "kernel_shape", "words"),
    [
        (ConvGeometry((2, 2)), (1, 1, 3, 3), r"no output point along axis 0: .* \(OIHW\)"),
        (ConvGeometry((2, 2), transposed=True, padding=3), (1, 1, 3, 3), "no output point"),
        (ConvGeometry((8, 8), groups=3), (4, 1, 3, 3), "groups=3 must divide the 4 output"),
        (ConvGeometry((8, 8), groups=3, transposed=True), (4, 1, 3, 3), "groups=3 must divide the 4 input"),
        (ConvGeometry((8, 8)), (4, 1, 3), "4 axes"),
        (ConvGeometry((8, 8)), (4, 1, 0, 3), "no empty axis"),
        (ConvGeometry((8, 8), transposed=True, output_padding=2), (1, 1, 3, 3), "smaller than the stride"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(geometry, kernel_shape, words):
    with pytest.raises(GeometryError, match=words):
        geometry.correlation(kernel_shape)


@pytest.mark.parametrize("function", [cs.operator_norm, cs.penalties.norm, cs.svd, cs.bounds.pfister2018])
def test_sizes_alone_are_no_geometry(function):
    with pytest.raises(GeometryError, match=r"geometry must be a ConvGeometry, such as .*; got \(8, 8\)"):
        function(np.ones((1, 1, 3, 3)), (8, 8))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_the_oracle_is_what_the_framework_computes(mode):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    @settings(max_examples=60)
    @given(layers(mode=mode))
    def check(layer):
        kernel, geometry = layer
        correlation = geometry.correlation(kernel.shape)
        if mode in ("reflect", "circular"):
            limit = [n - (mode == "reflect") for n in correlation.input_shape]
            if any(max(pair) > most for pair, most in zip(correlation.padding, limit, strict=True)):
                return  # more than the framework's padding can do
        axes = geometry.axes
        rng = np.random.default_rng(0)
        weight = torch.tensor(np.transpose(kernel, geometry.kernel_axes).copy())
        x = torch.tensor(rng.standard_normal((1, correlation.in_channels, *correlation.input_shape)))
        flat_pads = [amount for pair in reversed(correlation.padding) for amount in pair]
        padded = functional.pad(x, flat_pads, mode="constant" if mode == "zeros" else mode)
        convolve = getattr(functional, f"conv{axes}d")
        y = convolve(
            padded,
            weight,
            stride=correlation.stride,
            dilation=correlation.dilation,
            groups=correlation.groups,
        )
        matrix = dense_operator(kernel, geometry)
        forward = matrix.T if geometry.transposed else matrix
        if geometry.transposed:  # output padding beyond the stride leaves outputs that have no input
            y = y[(..., *(slice(m) for m in correlation.output_shape))]
        assert tuple(y.shape[2:]) == correlation.output_shape
        np.testing.assert_allclose(forward @ x.numpy().ravel(), y.numpy().ravel(), atol=1e-12)

    check()


@settings(max_examples=60)
@given(layers(mode="zeros"))
def test_transposed_layers_are_the_framework_s(layer):
    torch = pytest.importorskip("torch")
    kernel, geometry = layer
    assume(geometry.transposed)
    correlation = geometry.correlation(kernel.shape)
    weight = torch.tensor(np.transpose(kernel, geometry.kernel_axes).copy())
    x = torch.tensor(
        np.random.default_rng(0).standard_normal((1, correlation.out_channels, *geometry.input_shape))
    )
    y = getattr(torch.nn.functional, f"conv_transpose{geometry.axes}d")(
        x,
        weight,
        stride=geometry.stride,
        padding=[min(pair) for pair in geometry.padding],
        output_padding=geometry.output_padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )
    # PyTorch crops both ends by the same: the longer one is cropped here.
    ends = [(low - min(low, high), high - min(low, high)) for low, high in geometry.padding]
    y = y[(..., *(slice(low, n - high) for (low, high), n in zip(ends, y.shape[2:], strict=True)))]
    assert tuple(y.shape[2:]) == correlation.input_shape
    expected = dense_operator(kernel, geometry) @ x.numpy().ravel()
    np.testing.assert_allclose(expected, y.numpy().ravel(), atol=1e-12)
