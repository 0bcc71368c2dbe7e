"""The sampler of registration against `warp`, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.registration._field import warp
from jaxml.registration._flat import components
from jaxml.registration._sampling import sample

SHAPES = [(9, 7), (6, 8, 7)]


def problem(shape):
    rng = np.random.default_rng(0)
    # Some points fall outside of the volume, on all sides.
    u = 3 * rng.standard_normal((*shape, len(shape)))
    return (jnp.asarray(a) for a in (rng.standard_normal(shape), u, rng.standard_normal(shape)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
def test_value_and_gradients_equal_those_of_warp(shape, dtype, tolerance):
    image, u, weight = (a.astype(dtype) for a in problem(shape))
    ours = lambda image, u: jnp.vdot(weight, sample(image, components(u)))
    theirs = lambda image, u: jnp.vdot(weight, warp(image, u))
    np.testing.assert_allclose(sample(image, components(u)), warp(image, u), atol=tolerance)
    for one, other in zip(
        jax.jit(jax.grad(ours, (0, 1)))(image, u), jax.grad(theirs, (0, 1))(image, u), strict=True
    ):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, atol=tolerance)


def test_points_far_outside_are_zero():
    image, u, _ = problem((6, 8, 7))
    u = u.at[0, 0, 0].set(1e9).at[1, 1, 1].set(-1e9)
    found = sample(image, components(u))
    assert found[0, 0, 0] == found[1, 1, 1] == 0


def test_vmap_equals_one_by_one():
    image, u, weight = problem((9, 7))
    images, planes = (
        jnp.stack([image, weight]),
        jax.tree.map(lambda p: jnp.stack([p, 2 * p]), components(u)),
    )
    together = jax.vmap(sample)(images, planes)
    for i, image in enumerate(images):
        alone = sample(image, tuple(p[i] for p in planes))
        np.testing.assert_allclose(together[i], alone, atol=1e-14)
