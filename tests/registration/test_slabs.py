"""The layer on slabs of eight devices against the layer on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import sharding
from jaxml.registration import diffeomorphic_layer

MESH = sharding.data_mesh()


def field(shape, dtype, seed=0):
    u = np.random.default_rng(seed).normal(size=(*shape, len(shape)))
    return jnp.asarray(0.4 * u, dtype)


@pytest.mark.parametrize(
    ("shape", "boundary", "dtype", "atol"),
    [
        ((16, 7, 6), "dirichlet", "float64", 1e-12),
        ((8, 16, 5), "neumann", "float64", 1e-12),
        ((24, 11), "dirichlet", "float64", 1e-12),
        ((16, 7), "neumann", "float32", 1e-5),
    ],
)
def test_equals_the_layer_on_one_device(shape, boundary, dtype, atol):
    u = field(shape, dtype)
    split = jax.device_put(u, NamedSharding(MESH, P("data")))
    found = diffeomorphic_layer(split, mesh=MESH, boundary=boundary)
    expected = diffeomorphic_layer(u, boundary=boundary)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == dtype
        assert one.sharding.is_equivalent_to(split.sharding, one.ndim)
        np.testing.assert_allclose(one, other, atol=atol)


def test_gradient_and_vmap_equal_those_of_one_device():
    u = jnp.stack([field((8, 5, 4), "float64", seed) for seed in range(2)])
    weight = jnp.asarray(np.random.default_rng(2).normal(size=u.shape))
    loss = lambda layer, u: jnp.sum(weight * jax.vmap(lambda u: layer(u).displacement)(u))
    slabs = functools.partial(diffeomorphic_layer, mesh=MESH)
    found = jax.jit(jax.value_and_grad(functools.partial(loss, slabs)))(u)
    expected = jax.value_and_grad(functools.partial(loss, diffeomorphic_layer))(u)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, expected)


def test_no_device_holds_more_than_its_part():
    def memory(devices):
        mesh = sharding.data_mesh(devices=devices)
        place = NamedSharding(mesh, P("data"))
        u = jax.ShapeDtypeStruct((64, 48, 40, 3), "float32", sharding=place)
        run = jax.jit(functools.partial(diffeomorphic_layer, mesh=mesh))
        found = run.lower(u).compile().memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes

    assert memory(8) < memory(1) / 6


def test_bad_input_is_named(unchecked):
    with pytest.raises(
        ValueError,
        match=r"u=float64\[12, .*\]: accepted is a multiple of 8 planes on the first axis",
    ):
        diffeomorphic_layer(jnp.zeros((12, 5, 4, 3)), mesh=MESH)
    with pytest.raises(
        ValueError, match="boundary='periodic': accepted is one of 'dirichlet', 'neumann'"
    ):
        diffeomorphic_layer(jnp.zeros((8, 5, 4, 3)), mesh=MESH, boundary="periodic")
