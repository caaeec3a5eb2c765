"""Derivatives: at generic points against finite differences, and finite, with the values that the docstrings
state, where singular values are zero, repeated, or at a limit."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

import convspectra as cs
from convspectra import penalties, published
from convspectra.operators.reference import dense_operator


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def kernel_of(method, **arguments):
    return lambda kernel, geometry, **options: method(kernel, geometry, **arguments, **options).kernel


PROJECTIONS = {
    "clip": kernel_of(cs.clip, max_norm=1.1),
    "clip with a floor": kernel_of(cs.clip, max_norm=1.3, min_value=0.4),
    "rescale": kernel_of(cs.rescale, max_norm=0.7),
    "soft_threshold": kernel_of(cs.soft_threshold, threshold=0.6),
    "low_rank": kernel_of(cs.low_rank, rank=5),
    "orthogonalise": kernel_of(cs.orthogonalise, value=1.5),
    "clip_reshaped_kernel": kernel_of(cs.clip_reshaped_kernel, max_reshaped_norm=0.8),
}
PENALTIES = {
    "norm": penalties.norm,
    "squared_norm": penalties.squared_norm,
    "condition_number": penalties.condition_number,
    "hinge": partial(penalties.hinge, max_norm=0.7),
    "nuclear_norm": penalties.nuclear_norm,
    "schatten_norm": partial(penalties.schatten_norm, p=3.0),
    "log_volume": penalties.log_volume,
    "orthogonality": penalties.orthogonality,
}
RESHAPED = {
    "reshaped_norm": penalties.reshaped_norm,
    "reshaped_squared_norm": penalties.reshaped_squared_norm,
    "reshaped_condition_number": penalties.reshaped_condition_number,
    "reshaped_hinge": partial(penalties.reshaped_hinge, max_reshaped_norm=0.7),
    "reshaped_nuclear_norm": penalties.reshaped_nuclear_norm,
    "reshaped_schatten_norm": partial(penalties.reshaped_schatten_norm, p=3.0),
    "reshaped_log_volume": penalties.reshaped_log_volume,
    "reshaped_orthogonality": penalties.reshaped_orthogonality,
    "parseval_retraction": published.parseval_retraction,
    "parseval_projection": published.parseval_projection,
}
EVERYTHING = PROJECTIONS | PENALTIES | RESHAPED

ZERO_PADDED = cs.ConvGeometry((5,), padding=1)
GEOMETRIES = {
    "1-D, wide": ((2, 3, 3), torus((5,)), "torus"),
    "1-D, tall": ((3, 2, 3), torus((5,)), "torus"),
    "2-D": ((2, 2, 2, 3), torus((3, 4)), "torus"),
    "3-D": ((2, 1, 2, 2, 2), torus((2, 3, 2)), "torus"),
    "strided": ((2, 2, 3), torus((6,), stride=2), "torus"),
    "longer stride than kernel": ((3, 1, 2), torus((9,), stride=3), "torus"),
    "dilated": ((2, 2, 3), torus((7,), dilation=2), "torus"),
    "grouped": ((4, 2, 3), torus((4,), groups=2), "torus"),
    "depthwise": ((3, 1, 3), torus((5,), groups=3), "torus"),
    "transposed": ((2, 2, 3), torus((3,), stride=2, transposed=True), "torus"),
    "kernel larger than the input": ((2, 2, 5), torus((3,)), "torus"),
    "HWIO": ((2, 2, 2, 2), torus((3, 3), layout="HWIO"), "torus"),
    "any size": ((2, 2, 3), ZERO_PADDED, "any_size"),
    "zero padding": ((2, 2, 3), ZERO_PADDED, "layer"),
}


def generic(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def options_of(name, guarantee):
    return {} if name in RESHAPED else {"guarantee": guarantee}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_torch_agrees_with_finite_differences(case):
    torch = pytest.importorskip("torch")
    shape, geometry, guarantee = GEOMETRIES[case]
    kernel = torch.from_numpy(generic(shape)).requires_grad_()
    for name, method in EVERYTHING.items():
        function = partial(method, geometry=geometry, **options_of(name, guarantee))
        if not math.isfinite(float(function(kernel.detach()).sum())):
            assert name in ("log_volume", "condition_number")  # input that no tap reads
            continue
        assert torch.autograd.gradcheck(function, (kernel,), fast_mode=True, raise_exception=False), name


@pytest.mark.slow
def test_jax_agrees_with_finite_differences():
    jax, util = pytest.importorskip("jax"), pytest.importorskip("jax.test_util")
    jax.config.update("jax_enable_x64", True)
    kernel = jax.numpy.asarray(generic((3, 3, 3)))
    for name in ("clip", "orthogonalise", "norm", "nuclear_norm"):
        function = partial(EVERYTHING[name], geometry=GEOMETRY)
        util.check_grads(function, (kernel,), order=1, modes=["rev"], eps=1e-6, atol=1e-5, rtol=1e-5)


def scalar_of(name, method, geometry):
    """A scalar of the method, so that every library's gradient can be asked for."""
    direction = generic((2, 2, 3), seed=9)

    def scalar(kernel, library):
        found = method(kernel, geometry)
        return found if name in PENALTIES else (found * library.asarray(direction)).sum()

    return scalar


@pytest.mark.slow
def test_jax_compiles_what_torch_differentiates():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    geometry, values = torus((4,)), generic((2, 2, 3))
    for name, method in (PROJECTIONS | PENALTIES).items():
        if name == "low_rank":
            continue
        scalar = scalar_of(name, method, geometry)
        kernel = torch.from_numpy(values).requires_grad_()
        scalar(kernel, torch).backward()
        compiled = jax.jit(jax.grad(partial(scalar, library=jax.numpy)))
        np.testing.assert_allclose(compiled(values), kernel.grad, atol=1e-9, rtol=1e-9, err_msg=name)


# ---- an oracle that shares no code


def dense_function(geometry, shape, function):
    """A function of the dense operator's singular values, brought back to the taps by least squares."""
    taps = np.eye(math.prod(shape)).reshape(-1, *shape)
    basis = np.stack([dense_operator(tap, geometry).reshape(-1) for tap in taps], axis=1)
    sides = dense_operator(taps[0], geometry).shape

    def apply(kernel):
        matrix = (basis @ kernel.reshape(-1)).reshape(sides)
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        return np.linalg.lstsq(basis, ((u * function(s)) @ vh).reshape(-1), rcond=None)[0].reshape(shape)

    return apply


@pytest.mark.parametrize(
    "case", ["1-D, tall", "strided", "kernel larger than the input", "grouped", "transposed"]
)
@pytest.mark.parametrize("name", ["clip", "clip with a floor", "soft_threshold", "orthogonalise"])
def test_a_dense_matrix_gives_the_same_derivative(name, case):
    torch = pytest.importorskip("torch")
    shape, geometry, _ = GEOMETRIES[case]
    function = {
        "clip": lambda s: np.minimum(s, 1.1),
        "clip with a floor": lambda s: np.clip(s, 0.4, 1.3),
        "soft_threshold": lambda s: np.maximum(s - 0.6, 0),
        "orthogonalise": lambda s: 1.5 + 0 * s,
    }[name]
    oracle = dense_function(geometry, shape, function)
    kernel, direction, cotangent = (generic(shape, seed) for seed in (0, 1, 2))
    if case == "kernel larger than the input":
        kernel = wrapped_evenly(kernel, 3)  # a kernel that least squares gives back
        direction = wrapped_evenly(direction, 3)
    step = 1e-6
    expected = np.sum(cotangent * (oracle(kernel + step * direction) - oracle(kernel - step * direction)))
    given = torch.from_numpy(kernel).requires_grad_()
    found = PROJECTIONS[name](given, geometry)
    np.testing.assert_allclose(found.detach(), oracle(kernel), atol=1e-12)
    (found * torch.from_numpy(cotangent)).sum().backward()
    np.testing.assert_allclose(np.sum(given.grad.numpy() * direction), expected / (2 * step), rtol=1e-6)


def wrapped_evenly(kernel, points):
    """Taps that land on one point made equal."""
    out = np.empty_like(kernel)
    for tap in range(kernel.shape[-1]):
        out[..., tap] = kernel[..., tap % points :: points].mean(axis=-1)
    return out


# ---- where singular values are zero, repeated, or at a limit

ROTATION = np.linalg.qr(generic((3, 3), seed=4))[0]


def one_tap(matrix):
    """A kernel that is a matrix at one tap: every block has the matrix's singular values."""
    kernel = np.zeros((*matrix.shape, 3))
    kernel[:, :, 1] = matrix
    return kernel


SPECIAL = {
    "zero": np.zeros((3, 3, 3)),
    "identity": one_tap(np.eye(3)),
    "repeated, inside the limits": 0.55 * one_tap(ROTATION),
    "repeated, outside": 2 * one_tap(ROTATION),
    "rank one": np.multiply.outer(np.outer([1.0, -2.0, 0.5], [1.0, 0.0, 3.0]), [0.5, 0.2, -0.1]),
    "one channel zero": one_tap(np.diag([2.0, 1.0, 0.0])),
    "at the limits": one_tap(ROTATION @ np.diag([1.1, 0.7, 0.4])),
}
GEOMETRY = torus((5,))


def torch_vjp(method, kernel, cotangent=None, geometry=GEOMETRY):
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(np.array(kernel)).requires_grad_()
    found = method(given, geometry)
    (found if cotangent is None else (found * torch.from_numpy(cotangent)).sum()).backward()
    return given.grad.numpy()


def jax_vjp(method, kernel, cotangent=None, geometry=GEOMETRY):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    weights = 1.0 if cotangent is None else jax.numpy.asarray(cotangent)
    return np.asarray(jax.grad(lambda k: (method(k, geometry) * weights).sum())(jax.numpy.asarray(kernel)))


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("vjp", [torch_vjp, pytest.param(jax_vjp, marks=pytest.mark.slow)])
def test_everything_is_finite_everywhere(vjp, special):
    cotangent = generic((3, 3, 3), seed=5)
    for name, method in EVERYTHING.items():
        if vjp is jax_vjp and (name == "low_rank" or name.startswith("reshaped")):
            continue
        is_kernel = name in PROJECTIONS or name.startswith("parseval")
        found = vjp(method, SPECIAL[special], cotangent if is_kernel else None)
        assert np.isfinite(found).all(), name
        assert np.abs(found).max() < 1e4, name


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 1, 3), (1, 3, 3)])
def test_zero_blocks_of_one_row_or_column_are_finite_in_jax(shape):
    jax = pytest.importorskip("jax")
    groups = 3 if shape[0] == 3 else 1
    kernel = np.zeros(shape)
    kernel[:1] = 0.3 if groups == 3 else 0.0  # a channel that is not zero beside two that are
    geometry = torus((5,), groups=groups)
    for name, method in PENALTIES.items():
        assert np.isfinite(jax_vjp(method, kernel, geometry=geometry)).all(), name
        found = jax_vjp(method, generic(shape), geometry=geometry)
        np.testing.assert_allclose(found, torch_vjp(method, generic(shape), geometry=geometry), atol=1e-9)
    compiled = jax.jit(jax.grad(lambda k: cs.singular_values(k, geometry).smallest))
    assert np.isfinite(compiled(kernel)).all()


@pytest.mark.parametrize("limit", [0.55, 1.0, 2.0])
@pytest.mark.parametrize("matrix", ["identity", "rotation"])
def test_values_at_a_limit_move_as_those_inside(matrix, limit):
    kernel = limit * one_tap(np.eye(3) if matrix == "identity" else ROTATION)
    cotangent = generic((3, 3, 3), seed=5)
    found = torch_vjp(kernel_of(cs.clip, max_norm=limit), kernel, cotangent)
    np.testing.assert_allclose(found, cotangent, atol=1e-12)
    found = torch_vjp(kernel_of(cs.clip, max_norm=2 * limit, min_value=limit), kernel, cotangent)
    np.testing.assert_allclose(found, cotangent, atol=1e-12)
    found = torch_vjp(kernel_of(cs.soft_threshold, threshold=limit), kernel, cotangent)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    found = torch_vjp(kernel_of(cs.rescale, max_norm=limit), kernel, cotangent)
    np.testing.assert_allclose(found, cotangent, atol=1e-12)
    np.testing.assert_allclose(torch_vjp(partial(penalties.hinge, max_norm=limit), kernel), 0, atol=1e-12)


def test_the_zero_kernel():
    kernel, cotangent = SPECIAL["zero"], generic((3, 3, 3), seed=5)
    for name in ("clip", "rescale", "clip_reshaped_kernel"):
        np.testing.assert_array_equal(torch_vjp(PROJECTIONS[name], kernel, cotangent), cotangent)
    for name in ("soft_threshold", "orthogonalise"):
        np.testing.assert_array_equal(torch_vjp(PROJECTIONS[name], kernel, cotangent), 0 * kernel)
    for name, method in PENALTIES.items():
        for vjp in (torch_vjp, jax_vjp):
            np.testing.assert_array_equal(vjp(method, kernel), 0 * kernel, err_msg=name)


# Smooth there, although values are zero or repeated: the limits are elsewhere.
SMOOTH = [
    ("clip", "zero"),
    ("clip", "identity"),
    ("clip", "repeated, outside"),
    ("clip", "rank one"),
    ("clip", "one channel zero"),
    ("clip with a floor", "repeated, outside"),
    ("clip with a floor", "identity"),
    ("soft_threshold", "zero"),
    ("soft_threshold", "identity"),
    ("soft_threshold", "one channel zero"),
    ("soft_threshold", "rank one"),
    ("orthogonalise", "identity"),
    ("orthogonalise", "repeated, outside"),
    ("hinge", "repeated, outside"),
    ("hinge", "at the limits"),
    ("nuclear_norm", "repeated, outside"),
    ("schatten_norm", "rank one"),
    ("schatten_norm", "identity"),
    ("log_volume", "repeated, outside"),
    ("orthogonality", "zero"),
    ("orthogonality", "one channel zero"),
]


@pytest.mark.parametrize(("name", "special"), SMOOTH)
def test_finite_differences_agree_where_the_derivative_exists(name, special):
    torch = pytest.importorskip("torch")
    kernel = torch.from_numpy(np.array(SPECIAL[special])).requires_grad_()
    function = partial(EVERYTHING[name], geometry=GEOMETRY)
    assert torch.autograd.gradcheck(function, (kernel,), atol=1e-5)


@pytest.mark.parametrize("name", ["norm", "nuclear_norm"])
@pytest.mark.parametrize("special", SPECIAL)
def test_norms_have_subgradients(name, special):
    kernel, method = SPECIAL[special], PENALTIES[name]
    gradient, value = torch_vjp(method, kernel), method(kernel, GEOMETRY)
    np.testing.assert_allclose(np.sum(gradient * kernel), value, atol=1e-12)
    for seed in range(20):
        other = kernel + 0.3 * generic(kernel.shape, seed)
        assert method(other, GEOMETRY) >= value + np.sum(gradient * (other - kernel)) - 1e-12


def test_the_nuclear_norm_leaves_zeros_alone():
    """At rank one the shortest subgradient is that of the one singular value of each block."""
    left, right, taps = np.array([1.0, -2.0, 0.5]), np.array([1.0, 0.0, 3.0]), np.array([0.5, 0.2, -0.1])
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    found = torch_vjp(penalties.nuclear_norm, SPECIAL["rank one"])
    of_taps = torch_vjp(penalties.nuclear_norm, taps.reshape(1, 1, 3)).reshape(3)
    expected = np.multiply.outer(np.outer(left, right), of_taps) / lengths
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_penalties_of_orthogonal_kernels():
    kernel, points = one_tap(ROTATION), 5
    np.testing.assert_allclose(torch_vjp(penalties.orthogonality, kernel), 0, atol=1e-12)
    np.testing.assert_allclose(torch_vjp(penalties.nuclear_norm, kernel), points * kernel, atol=1e-12)
    np.testing.assert_allclose(torch_vjp(penalties.log_volume, 2 * kernel), points * kernel / 2, atol=1e-12)
    frobenius = torch_vjp(partial(penalties.schatten_norm, p=2), 2 * kernel)
    np.testing.assert_allclose(frobenius, points * kernel / math.sqrt(3 * points), atol=1e-12)


def test_singular_operators_have_no_gradient_to_their_zeros():
    kernel = SPECIAL["one channel zero"]
    assert penalties.log_volume(kernel, GEOMETRY) == -math.inf
    expected = 5 * one_tap(np.diag([0.5, 1.0, 0.0]))
    np.testing.assert_allclose(torch_vjp(penalties.log_volume, kernel), expected, atol=1e-12)
    assert penalties.condition_number(kernel, GEOMETRY) == math.inf
    np.testing.assert_array_equal(torch_vjp(penalties.condition_number, kernel), 0 * kernel)


def test_a_step_against_each_penalty_lowers_it():
    torch = pytest.importorskip("torch")
    geometry = cs.ConvGeometry((8, 8), padding=1)
    for name, method in PENALTIES.items():
        kernel = torch.from_numpy(generic((4, 3, 3, 3)).astype(np.float32)).requires_grad_()
        sign = -1 if name == "log_volume" else 1
        before = sign * method(kernel, geometry)
        before.backward()
        assert kernel.grad.dtype == torch.float32
        step = 1e-3 * float(torch.linalg.vector_norm(kernel.detach()) / torch.linalg.vector_norm(kernel.grad))
        after = sign * method(kernel.detach() - step * kernel.grad, geometry)
        assert after < before, name


def test_gradients_of_gradients_are_refused_not_wrong():
    torch = pytest.importorskip("torch")
    kernel = torch.from_numpy(generic((2, 2, 3))).requires_grad_()
    for power in (1, 2):
        value = penalties.nuclear_norm(kernel, GEOMETRY) ** power
        with pytest.raises(RuntimeError, match="gives first derivatives only"):
            torch.autograd.grad(value, kernel, create_graph=True)


def test_half_precision_learns_too():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float16, torch.bfloat16):
        kernel = torch.from_numpy(generic((3, 2, 3))).to(dtype).requires_grad_()
        penalties.nuclear_norm(kernel, GEOMETRY).backward()
        assert kernel.grad.dtype == dtype
        assert bool(torch.isfinite(kernel.grad).all())
