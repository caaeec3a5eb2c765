"""JAX on the CPU: what is traced calls the native core, with derivatives; captured values are values."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import convspectra as cs  # noqa: E402
from convspectra import ConvGeometry, penalties  # noqa: E402

jnp = jax.numpy
WRAPPED = ConvGeometry((4, 5), padding=1, padding_mode="circular")
PADDED = ConvGeometry((4, 5), padding=1)
STRIDED = ConvGeometry((4, 6), padding=1, stride=2, groups=2, padding_mode="circular")

SCALARS = {
    "norm": lambda k: penalties.norm(k, WRAPPED),
    "norm, padded": lambda k: penalties.norm(k, PADDED),
    "norm of any size": lambda k: penalties.norm(k, PADDED, guarantee="any_size"),
    "hinge": lambda k: penalties.hinge(k, WRAPPED, 1.0),
    "nuclear norm": lambda k: penalties.nuclear_norm(k, WRAPPED),
    "condition number": lambda k: penalties.condition_number(k, WRAPPED),
    "values": lambda k: (cs.singular_values(k, WRAPPED).values ** 3).sum(),
    "values, strided": lambda k: (cs.singular_values(k[:, :1], STRIDED).values ** 3).sum(),
    "smallest": lambda k: cs.singular_values(k, WRAPPED).smallest,
    "clip": lambda k: (cs.clip(k, WRAPPED, 1.0).kernel ** 3).sum(),
    "soft threshold": lambda k: (cs.soft_threshold(k, WRAPPED, 0.5).kernel ** 3).sum(),
    "rescale": lambda k: (cs.rescale(k, PADDED, 1.0).kernel ** 3).sum(),
}


@pytest.fixture(autouse=True)
def _doubles():
    jax.config.update("jax_enable_x64", True)


def values(seed=0):
    return np.random.default_rng(seed).standard_normal((4, 2, 3, 3)) / 2


@pytest.mark.parametrize("name", SCALARS)
def test_traced_functions_are_those_of_numpy(name):
    function, k, direction = SCALARS[name], values(), values(1)
    expected = float(function(k))
    h = 1e-6
    slope = (float(function(k + h * direction)) - float(function(k - h * direction))) / (2 * h)
    for transformed in (jax.value_and_grad(function), jax.jit(jax.value_and_grad(function))):
        found, gradient = transformed(jnp.asarray(k))
        assert float(found) == pytest.approx(expected, rel=1e-12)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-6, abs=1e-6)
    several = jax.jit(jax.vmap(function))(jnp.stack([k, values(2)]))
    np.testing.assert_allclose(several, [expected, float(function(values(2)))], rtol=1e-12)
    gradients = jax.vmap(jax.grad(function))(jnp.stack([k, k]))
    np.testing.assert_allclose(gradients[1], gradient, rtol=1e-12)


@pytest.mark.parametrize("name", SCALARS)
def test_values_captured_by_a_compiled_function(name):
    function, k = SCALARS[name], jnp.asarray(values())
    found = jax.jit(lambda x: function(k) + x)(1.0)
    assert float(found) == pytest.approx(float(function(values())) + 1, rel=1e-12)
    assert float(jax.jit(jax.grad(lambda x: function(k) * x))(1.0)) == pytest.approx(float(found) - 1)


def test_a_training_loop_in_one_program():
    penalty = partial(penalties.hinge, geometry=PADDED, max_norm=0.5)

    def step(k, _):
        return k - 0.002 * jax.grad(penalty)(k), penalties.norm(k, PADDED)

    k, norms = jax.jit(lambda k: jax.lax.scan(step, k, None, length=6))(jnp.asarray(values()))
    assert (np.diff(norms) < 0).all()
    assert float(penalties.norm(np.asarray(k), PADDED)) < norms[-1]


def test_precision_is_that_of_the_kernel():
    found = jax.jit(lambda k: penalties.norm(k, WRAPPED))(jnp.asarray(values(), jnp.float32))
    assert found.dtype == np.float32


def test_errors_while_a_program_runs_are_told():
    k = jnp.asarray(values()).at[0, 0, 0, 0].set(jnp.inf)
    with pytest.raises(Exception, match="beyond the range"):
        jax.block_until_ready(jax.jit(SCALARS["norm"])(k))
