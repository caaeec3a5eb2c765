"""Projections: inside the ball in exact comparison, as near as they say, by oracles that share no code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra.operators.reference import dense_operator
from strategies import layers


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def dense_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(kernel, geometry), 2)


CASES = {
    "plain": ((2, 3, 3), {"input_shape": (7,), "layout": "OIW"}),
    "two dimensions": ((2, 2, 2, 3), {"input_shape": (4, 5)}),
    "three dimensions": ((1, 2, 2, 2, 2), {"input_shape": (2, 3, 2)}),
    "strided": ((3, 2, 3), {"input_shape": (8,), "stride": 2, "layout": "OIW"}),
    "grouped": ((4, 2, 3), {"input_shape": (6,), "groups": 2, "layout": "OIW"}),
    "depthwise": ((3, 1, 3), {"input_shape": (6,), "groups": 3}),
    "dilated": ((2, 2, 3), {"input_shape": (9,), "dilation": 2, "layout": "OIW"}),
    "larger than the input": ((2, 2, 4), {"input_shape": (3,), "layout": "OIW"}),
    "transposed": ((2, 3, 3), {"input_shape": (4,), "stride": 2, "transposed": True}),
    "HWIO": ((3, 2, 2, 2), {"input_shape": (4, 4), "layout": "HWIO"}),
}


def case(name):
    shape, options = CASES[name]
    kernel = np.random.default_rng(0).standard_normal(shape)
    geometry = cs.ConvGeometry(padding="same", padding_mode="circular", **options)
    return kernel, geometry, 0.6 * dense_norm(kernel, geometry)


def nearest_by_interior_points(kernel, geometry, limit):
    """The same problem as a semidefinite program on the dense matrix, by a solver of such programs."""
    cvxpy = pytest.importorskip("cvxpy")
    taps = np.eye(kernel.size).reshape(kernel.size, *kernel.shape)
    basis = np.stack([dense_operator(tap, geometry) for tap in taps])
    unknown = cvxpy.Variable(kernel.size)
    flat = basis.reshape(kernel.size, -1).T @ unknown
    inside = cvxpy.sigma_max(cvxpy.reshape(flat, basis.shape[1:], order="C")) <= limit
    distance = cvxpy.norm(unknown - kernel.reshape(-1))
    problem = cvxpy.Problem(cvxpy.Minimize(distance), [inside])
    problem.solve(solver=cvxpy.CLARABEL)
    assert problem.status == "optimal"
    return unknown.value.reshape(kernel.shape)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_nearest_kernel(name):
    kernel, geometry, limit = case(name)
    found = cs.project(kernel, geometry, limit, tolerance=1e-8)
    expected = nearest_by_interior_points(kernel, geometry, limit)
    assert dense_norm(expected, geometry) <= limit * (1 + 1e-4)
    assert np.linalg.norm(found.kernel - expected) <= found.distance_to_nearest + 2e-3
    assert found.gap <= 1e-8 * np.sum((found.kernel - kernel) ** 2)
    assert dense_norm(found.kernel, geometry) <= limit
    # What a loose call claims holds as well.
    loose = cs.project(kernel, geometry, limit, tolerance=0.3)
    assert (
        np.linalg.norm(loose.kernel - found.kernel) <= loose.distance_to_nearest + found.distance_to_nearest
    )
    assert loose.iterations <= found.iterations


@pytest.mark.parametrize("method", ["accelerated_dual", "dykstra", "augmented_lagrangian"])
def test_the_methods_agree(method):
    kernel, geometry, limit = case("two dimensions")
    found = cs.project(kernel, geometry, limit, tolerance=1e-4, max_iterations=20_000, method=method)
    reference = cs.project(
        kernel, geometry, limit, tolerance=1e-8, max_iterations=20_000, method="accelerated_dual"
    )
    assert np.linalg.norm(found.kernel - reference.kernel) <= found.distance_to_nearest + 1e-4
    assert found.gap <= 1e-4 * np.sum((found.kernel - kernel) ** 2)


def test_alternating_ends_inside_but_elsewhere():
    kernel, geometry, limit = case("two dimensions")
    nearest = cs.project(kernel, geometry, limit, tolerance=1e-8)
    found = cs.project(kernel, geometry, limit, tolerance=1e-8, max_iterations=2000, method="alternate")
    assert found.norm <= limit
    assert np.linalg.norm(found.kernel - nearest.kernel) <= found.distance_to_nearest
    assert np.linalg.norm(found.kernel - kernel) > 1.001 * np.linalg.norm(nearest.kernel - kernel)


SHARES = st.sampled_from([0.3, 0.9, 0.999])


@pytest.mark.slow
@settings(max_examples=1000)
@given(layers(), SHARES)
def test_a_wrapped_layer_is_in_the_ball_by_the_dense_matrix(layer, share):
    kernel, geometry = layer
    before = dense_norm(kernel, geometry)
    limit = share * before
    assume(limit > 1e-12)
    for kept in (
        cs.project(kernel, geometry, limit, tolerance=0.2),
        cs.rescale(kernel, geometry, limit),
        cs.project(kernel, geometry, limit, guarantee="any_size", tolerance=0.2),
    ):
        assert dense_norm(kept.kernel, geometry) <= limit
        assert kept.norm <= limit
        assert kept.kernel.shape == kernel.shape


def held_as_it_pads(kernel, geometry, share, guarantees):
    limit = share * dense_norm(kernel, geometry)
    assume(limit > 1e-12)
    kept = [cs.rescale(kernel, geometry, limit, guarantee=guarantee) for guarantee in guarantees]
    for one in (cs.project(kernel, geometry, limit, guarantee="layer", tolerance=0.2), *kept):
        assert dense_norm(one.kernel, geometry) <= limit
        assert one.norm <= limit


@settings(max_examples=150)
@given(st.sampled_from(["reflect", "replicate", "circular"]).flatmap(lambda mode: layers(mode=mode)), SHARES)
def test_a_layer_that_copies_is_in_the_ball_by_the_dense_matrix(layer, share):
    kernel, geometry = layer
    held_as_it_pads(kernel, geometry, share, ["layer"])


@settings(max_examples=150)
@given(layers(mode="zeros"), SHARES)
def test_a_zero_padded_layer_is_in_the_ball_by_the_dense_matrix(layer, share):
    kernel, geometry = layer
    held_as_it_pads(kernel, geometry, share, ["layer", "any_size"])


@settings(max_examples=60)
@given(layers(), SHARES, st.sampled_from([np.float32, np.float64]))
def test_the_promise_is_kept_to_the_last_bit(layer, share, dtype):
    kernel, geometry = layer
    kernel = np.asarray(kernel, dtype=dtype)
    before = float(cs.operator_norm(kernel, geometry).upper)
    assume(before > 0)
    limit = share * before
    for kept in (
        cs.project(kernel, geometry, limit, tolerance=0.2, max_iterations=20),
        cs.rescale(kernel, geometry, limit),
    ):
        assert kept.kernel.dtype == dtype
        assert float(cs.operator_norm(kept.kernel, geometry).upper) == float(kept.norm) <= limit
        assert (
            float(cs.operator_norm(kept.kernel, geometry, compute=cs.Compute(solver="lapack")).upper) <= limit
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_guarantee_is_what_the_bound_of_its_name_says(dtype):
    kernel = np.random.default_rng(8).standard_normal((6, 5, 3, 3)).astype(dtype)
    padded = cs.ConvGeometry((9, 7), stride=2, padding=1)
    limits = {
        "layer": cs.operator_norm(kernel, padded),
        "any_size": cs.bounds.duffin1938(kernel, padded),
    }
    for guarantee, bound in limits.items():
        limit = 0.5 * float(bound.upper)
        for method in (cs.rescale, cs.project):
            kept = method(kernel, padded, limit, guarantee=guarantee)
            assert kept.guarantee == guarantee
            assert kept.norm <= limit
            assert cs.operator_norm(kept.kernel, padded).upper <= limit
            if guarantee == "any_size":
                samples = cs.bounds.pfister2018(kept.kernel.astype(np.float64), padded, oversampling=64)
                assert samples.lower <= limit
                assert method is not cs.rescale or samples.upper >= limit * (1 - 2e-4)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("move", [cs.rescale, cs.project, cs.project_schatten])
def test_a_geometry_says_which_operator_is_kept(move, mode):
    kernel = np.random.default_rng(11).standard_normal((3, 2, 3))
    layer = cs.ConvGeometry(6, padding=1, padding_mode=mode)
    options = {"p": math.inf} if move is cs.project_schatten else {}
    kept = move(kernel, layer, 1.0, **options)
    assert kept.guarantee == "layer"
    assert np.linalg.norm(dense_operator(kept.kernel, layer), 2) <= 1 + 1e-12
    # The paper's setting is another operator, which is asked for.
    wrapped = move(kernel, layer.on_torus(), 1.0, **options)
    assert np.isclose(np.linalg.norm(dense_operator(wrapped.kernel, layer.on_torus()), 2), 1.0)
    if mode in ("zeros", "circular"):
        same = move(kernel, layer, 1.0, guarantee="torus", **options)
        np.testing.assert_array_equal(wrapped.kernel, same.kernel)


def test_a_guarantee_may_be_spelt_as_on_the_command_line():
    kernel, layer = np.random.default_rng(12).standard_normal((3, 2, 3)), cs.ConvGeometry(6, padding=1)
    hyphen, underscore = (cs.rescale(kernel, layer, 1.0, guarantee=word) for word in ("any-size", "any_size"))
    assert hyphen.guarantee == underscore.guarantee == "any_size"
    np.testing.assert_array_equal(hyphen.kernel, underscore.kernel)


def test_a_guarantee_that_cannot_be_given_is_refused():
    kernel = np.ones((2, 2, 3))
    with pytest.raises(cs.GeometryError, match=r"stride .* does not divide"):
        cs.clip(kernel, cs.ConvGeometry(5, stride=2, padding=1), 1.0, guarantee="torus")
    with pytest.raises(cs.GeometryError, match="reflect padding needs at least two points"):
        cs.clip(kernel, cs.ConvGeometry(1, padding=1, padding_mode="reflect"), 1.0, guarantee="layer")
    with pytest.raises(cs.InputError, match=r"^guarantee"):
        cs.clip(kernel, torus(5), 1.0, guarantee="all")


def test_rescaling_goes_to_the_edge_and_no_further():
    kernel, geometry = np.random.default_rng(5).standard_normal((4, 4, 3, 3)), torus((9, 9))
    limit = 0.37 * float(cs.operator_norm(kernel, geometry).upper)
    for dtype in (np.float32, np.float64):
        kept = cs.rescale(kernel.astype(dtype), geometry, limit)
        # As near as the error of a norm in double precision, and what other engines round, allow.
        slack = 1e-12 if dtype == np.float64 else 100 * np.finfo(dtype).eps
        assert limit * (1 - slack) <= float(kept.norm) <= limit
        np.testing.assert_allclose(kept.kernel, 0.37 * kernel, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", [torus((9, 9)), cs.ConvGeometry((6, 5), padding=1, stride=2)])
def test_one_pass_ends_within_its_error_of_the_edge(geometry, dtype):
    guarantee = "torus" if geometry.padding_mode == "circular" else "layer"
    for seed in range(5):
        kernel = np.random.default_rng(seed).standard_normal((4, 4, 3, 3)).astype(dtype)
        limit = 0.37 * float(cs.rescale(kernel, geometry, 1e9, guarantee=guarantee).norm)
        kept = cs.rescale(kernel, geometry, limit, guarantee=guarantee, one_pass=True)
        assert np.linalg.norm(dense_operator(kept.kernel.astype(float), geometry), 2) <= limit
        assert limit * (1 - 1000 * np.finfo(dtype).eps) <= float(kept.norm) <= limit
        exactly = cs.rescale(kept.kernel, geometry, limit, guarantee=guarantee)
        assert float(exactly.norm_before) == pytest.approx(
            float(kept.norm), rel=float(8 * np.finfo(dtype).eps)
        )
        np.testing.assert_array_equal(exactly.kernel, kept.kernel)


def test_a_kernel_inside_stays_as_it_is():
    kernel = np.random.default_rng(1).standard_normal((3, 3, 3, 3))
    geometry = torus((6, 6))
    limit = float(cs.operator_norm(kernel, geometry).upper) * (1 + 1e-12)  # its own rounding is not proven
    found = cs.project(kernel, geometry, limit)
    assert (found.iterations, found.gap, found.distance_to_nearest) == (0, 0.0, 0.0)
    for method in (cs.project, cs.rescale, cs.clip):
        np.testing.assert_array_equal(method(kernel, geometry, limit).kernel, kernel)
    for method in (cs.project, cs.rescale, cs.clip, cs.project_schatten):
        np.testing.assert_array_equal(method(0 * kernel, geometry, 1.0).kernel, 0 * kernel)


PROJECTIONS = {
    "project": lambda kernel, geometry, limit: cs.project(kernel, geometry, limit, tolerance=1e-6),
    "clip of a kernel that fills its torus": cs.clip,
    "clip_reshaped_kernel": cs.clip_reshaped_kernel,
    "project_schatten, p = 2": lambda *layer: cs.project_schatten(*layer, p=2),
}


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.7]))
@pytest.mark.parametrize("name", PROJECTIONS)
def test_it_obeys_the_laws_of_projections(name, seed, share):
    """Fixed inside and on the boundary, idempotent, non-expansive, and nearest: no angle is acute."""
    rng = np.random.default_rng(seed)
    method = PROJECTIONS[name]
    shape = (2, 2, 4) if "fills" in name else (2, 3, 3)
    geometry = torus((4,) if "fills" in name else (6,))
    first, second = rng.standard_normal((2, *shape))
    limit = share * dense_norm(first, geometry)
    one, two = (method(kernel, geometry, limit) for kernel in (first, second))
    room = sum(p.distance_to_nearest or 0.0 for p in (one, two)) + 1e-9
    again = method(one.kernel, geometry, limit)
    assert np.linalg.norm(again.kernel - one.kernel) <= room
    assert np.linalg.norm(one.kernel - two.kernel) <= np.linalg.norm(first - second) + room
    angle = np.sum((first - one.kernel) * (two.kernel - one.kernel))
    assert angle <= room * np.linalg.norm(first - two.kernel)


def test_a_warm_start_is_short():
    rng = np.random.default_rng(2)
    kernel, geometry = rng.standard_normal((8, 8, 3, 3)), torus((12, 12))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    first = cs.project(kernel, geometry, limit, tolerance=1e-3)
    changed = kernel + 1e-3 * rng.standard_normal(kernel.shape)
    cold = cs.project(changed, geometry, limit, tolerance=1e-2)
    warm = cs.project(changed, geometry, limit, tolerance=1e-2, dual=first.dual)
    assert warm.iterations * 2 <= cold.iterations
    assert warm.norm <= limit
    with pytest.raises(cs.InputError, match=r"^dual "):
        cs.project(changed, torus((10, 12)), limit, dual=first.dual)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scaling_is_a_law(scale):
    kernel, geometry = np.random.default_rng(3).standard_normal((4, 4, 3, 3)), torus((6, 6))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    for method in (cs.project, cs.clip, cs.rescale, cs.project_schatten):
        plain = method(kernel, geometry, limit)
        scaled = method(kernel * scale, geometry, limit * scale)
        np.testing.assert_allclose(scaled.kernel / scale, plain.kernel, atol=1e-9)


def dense_function(kernel, geometry, function):
    """A function of the dense matrix's singular values, cut back to the taps by least squares."""
    taps = np.eye(kernel.size).reshape(kernel.size, *kernel.shape)
    basis = np.stack([dense_operator(tap, geometry).reshape(-1) for tap in taps])
    u, s, vh = np.linalg.svd(dense_operator(kernel, geometry), full_matrices=False)
    found = np.linalg.lstsq(basis.T, ((u * function(s)) @ vh).reshape(-1), rcond=None)[0]
    return found.reshape(kernel.shape), s


@pytest.mark.parametrize("name", sorted(set(CASES) - {"larger than the input"}))
def test_functions_of_singular_values_are_those_of_the_dense_matrix(name):
    kernel, geometry, limit = case(name)
    sigma = dense_function(kernel, geometry, lambda s: s)[1]
    low = 0.5 * (sigma[sigma > 1e-9].min() + sigma.max())
    expected = {
        "clip": lambda s: np.minimum(s, limit),
        "floor": lambda s: np.where(s > 1e-9, np.clip(s, low, 2 * low), s),
        "soft_threshold": lambda s: np.maximum(s - low, 0),
        "orthogonalise": lambda s: np.where(s > 1e-9, 2.0, 0),
        "low_rank": lambda s: np.where(s > np.sort(s)[::-1][4] * (1 + 1e-9), s, 0),
    }
    found = {
        "clip": cs.clip(kernel, geometry, limit),
        "soft_threshold": cs.soft_threshold(kernel, geometry, low),
        "low_rank": cs.low_rank(kernel, geometry, 4),
    }
    if sigma.min() > 1e-9:  # else vectors of the null space, which no rule determines, are raised
        found["floor"] = cs.clip(kernel, geometry, 2 * low, min_value=low)
        found["orthogonalise"] = cs.orthogonalise(kernel, geometry, value=2.0)
    for key, projection in found.items():
        wanted = dense_function(kernel, geometry, expected[key])[0]
        np.testing.assert_allclose(projection.kernel, wanted, atol=1e-10, err_msg=key)
        np.testing.assert_allclose(projection.norm, dense_norm(wanted, geometry), rtol=1e-10)
        np.testing.assert_allclose(projection.norm_before, sigma.max(), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("name", CASES)
def test_the_schatten_ball(name, p):
    kernel, geometry, _ = case(name)
    before = np.linalg.norm(np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False), p)
    found = cs.project_schatten(kernel, geometry, 0.4 * before, p=p)
    after = np.linalg.norm(np.linalg.svd(dense_operator(found.kernel, geometry), compute_uv=False), p)
    assert after <= 0.4 * before * (1 + 1e-13)
    assert after >= 0.3 * before
    if p == 2 and "larger" not in name:
        np.testing.assert_allclose(found.kernel, 0.4 * kernel, rtol=1e-9)


def test_the_nuclear_ball_before_the_cut_is_the_nearest():
    kernel, geometry = np.random.default_rng(7).standard_normal((2, 2, 5)), torus((5,))
    radius = 0.5 * float(cs.singular_values(kernel, geometry).nuclear_norm)
    found = cs.project_schatten(kernel, geometry, radius).kernel
    s = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    low, high = 0.0, s.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(s - middle, 0).sum() > radius else (low, middle)
    expected = dense_function(kernel, geometry, lambda x: np.maximum(x - low, 0))[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_clip_of_the_reshaped_kernel_does_not_bound_the_operator():
    kernel, geometry = np.random.default_rng(9).standard_normal((8, 8, 3, 3)), torus((8, 8))
    found = cs.clip_reshaped_kernel(kernel, geometry, 1.0)
    u, s, vh = np.linalg.svd(kernel.reshape(8, -1), full_matrices=False)
    np.testing.assert_allclose(found.kernel.reshape(8, -1), (u * np.minimum(s, 1)) @ vh, atol=1e-12)
    assert found.norm > 1.2
    np.testing.assert_allclose(found.norm, dense_norm(found.kernel, geometry), rtol=1e-12)


@pytest.mark.parametrize("solver", ["auto", "lapack", "native", "torch"])
def test_every_solver_gives_the_same(solver):
    if solver == "torch":
        pytest.importorskip("torch")
    if solver == "native":
        from convspectra._solvers import native

        if native.why_unavailable():
            pytest.skip(native.why_unavailable())
    kernel, geometry = np.random.default_rng(4).standard_normal((6, 4, 3, 3)), torus((6, 7))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    for method in (cs.clip, cs.soft_threshold, cs.rescale):
        expected = method(kernel, geometry, limit)
        found = method(kernel, geometry, limit, compute=cs.Compute(solver=solver))
        np.testing.assert_allclose(found.kernel, expected.kernel, atol=1e-12)
    found = cs.project(kernel, geometry, limit, compute=cs.Compute(solver=solver))
    np.testing.assert_allclose(found.kernel, cs.project(kernel, geometry, limit).kernel, atol=1e-6)


def test_other_libraries_get_their_own_arrays():
    torch = pytest.importorskip("torch")
    kernel, geometry = np.random.default_rng(4).standard_normal((4, 4, 3, 3)), torus((6, 6))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    theirs = torch.from_numpy(kernel)
    for method in (cs.project, cs.clip, cs.rescale, cs.soft_threshold, cs.project_schatten):
        found = method(theirs, geometry, limit)
        assert isinstance(found.kernel, torch.Tensor)
        np.testing.assert_allclose(found.kernel.numpy(), method(kernel, geometry, limit).kernel, atol=1e-9)
    with pytest.raises(cs.InputError, match="gives no gradient: detach the kernel"):
        cs.project_schatten(theirs.requires_grad_(), geometry, limit)


@pytest.mark.parametrize("guarantee", ["torus", pytest.param("any_size", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["plain", "two dimensions", "strided", "grouped", "transposed"])
def test_the_derivative_of_the_nearest_kernel_is_that_of_finite_differences(name, guarantee):
    torch = pytest.importorskip("torch")
    kernel, geometry, limit = case(name)
    rng = np.random.default_rng(11)
    weights, directions = rng.standard_normal(kernel.shape), rng.standard_normal((2, *kernel.shape))

    def nearest(given):
        options = {"tolerance": 1e-12, "max_iterations": 300, "guarantee": guarantee}
        return cs.project(given.requires_grad_(), geometry, limit, **options).kernel

    tracked = torch.from_numpy(kernel)
    (nearest(tracked) * torch.from_numpy(weights)).sum().backward()
    step = 3e-4  # kinks are nearby
    for direction in directions:
        ahead, back = (nearest(torch.from_numpy(kernel + sign * step * direction)) for sign in (1, -1))
        expected = np.sum(weights * (ahead - back).detach().numpy()) / (2 * step)
        found = np.sum(tracked.grad.numpy() * direction)
        assert abs(found - expected) <= 1e-3 * np.linalg.norm(weights)


@pytest.mark.slow
def test_the_nearest_kernel_is_differentiable_in_jax_outside_jit():
    jax = pytest.importorskip("jax")
    kernel, geometry, limit = case("two dimensions")
    torch = pytest.importorskip("torch")
    tracked = torch.from_numpy(kernel).requires_grad_()
    (cs.project(tracked, geometry, limit, tolerance=1e-8).kernel ** 2).sum().backward()
    with jax.enable_x64(True):

        def square(given):
            return (cs.project(given, geometry, limit, tolerance=1e-8).kernel ** 2).sum()

        gradient = jax.grad(square)(jax.numpy.asarray(kernel))
        np.testing.assert_allclose(gradient, tracked.grad.numpy(), atol=1e-4)
        with pytest.raises(cs.InputError, match="call it outside jax"):
            jax.jit(square)(jax.numpy.asarray(kernel))


def test_a_second_derivative_is_refused_and_a_changed_kernel_noticed():
    torch = pytest.importorskip("torch")
    kernel, geometry, limit = case("plain")
    tracked = torch.from_numpy(kernel).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(cs.clip(tracked, geometry, limit).kernel.sum(), tracked, create_graph=True)
    clipped = cs.clip(tracked, geometry, limit).kernel.sum()
    with torch.no_grad():
        tracked.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        clipped.backward()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(limit):
    kernel, geometry = np.ones((2, 2, 3, 3)), torus((4, 4))
    names = {
        cs.project: "max_norm",
        cs.rescale: "max_norm",
        cs.clip: "max_norm",
        cs.clip_reshaped_kernel: "max_reshaped_norm",
        cs.soft_threshold: "threshold",
        cs.project_schatten: "radius",
    }
    for method, name in names.items():
        with pytest.raises(cs.InputError, match=rf"^{name}"):
            method(kernel, geometry, limit)


def test_other_bad_arguments_are_refused():
    kernel, geometry = np.ones((2, 2, 3, 3)), torus((4, 4))
    with pytest.raises(cs.InputError, match=r"^tolerance"):
        cs.project(kernel, geometry, 1.0, tolerance=0)
    with pytest.raises(cs.InputError, match=r"^max_iterations"):
        cs.project(kernel, geometry, 1.0, max_iterations=0)
    with pytest.raises(cs.InputError, match=r"^method"):
        cs.project(kernel, geometry, 1.0, method="newton")
    with pytest.raises(cs.InputError, match=r"^min_value"):
        cs.clip(kernel, geometry, 1.0, min_value=2)
    with pytest.raises(cs.InputError, match=r"^rank "):
        cs.low_rank(kernel, geometry, -1)
    with pytest.raises(cs.InputError, match=r"^p "):
        cs.project_schatten(kernel, geometry, 1.0, p=3)
    with pytest.raises(cs.KernelError, match="1 NaN or infinite"):
        cs.project(np.where(np.arange(36).reshape(2, 2, 3, 3) == 5, np.nan, kernel), geometry, 1.0)


@pytest.mark.parametrize("solver", ["auto", pytest.param("lapack", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["alternate", "dykstra", "augmented_lagrangian", "accelerated_dual"])
def test_the_gap_stays_a_proof_however_long_a_method_runs(method, solver):
    kernel, geometry, limit = case("two dimensions")
    nearest = cs.project(kernel, geometry, limit, tolerance=1e-8)
    for most in (10, 100, 1000):
        found = cs.project(
            kernel,
            geometry,
            limit,
            tolerance=1e-15,
            max_iterations=most,
            method=method,
            compute=cs.Compute(solver=solver),
        )
        away = np.linalg.norm(found.kernel - nearest.kernel)
        assert away <= found.distance_to_nearest + nearest.distance_to_nearest


@pytest.mark.parametrize(
    ("scale", "limit"), [(1, 1e-20), (1e15, 1.0), (1e80, 1.0), (1, 1e-80), (1e300, 1e300)]
)
@pytest.mark.parametrize("method", [cs.project, cs.project_schatten])
def test_a_limit_far_below_the_norm(method, scale, limit):
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3)) * scale
    found = method(kernel, torus(8), limit)
    assert np.isfinite(found.kernel).all()
    assert float(found.norm) <= limit
    assert dense_norm(found.kernel / limit, torus(8)) <= 1
