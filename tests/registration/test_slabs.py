"""The layer, the projection and whole registrations on eight devices against those on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.ndimage import gaussian_filter

from jaxml import sharding
from jaxml.registration import count_folds, diffeomorphic_layer, fold_free, register
from jaxml.registration._halo import Split
from jaxml.registration._images import Image
from jaxml.registration._pyramid import Level
from jaxml.registration._similarity import ncc_within
from jaxml.registration._symmetric import symmetric_level

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


def smooth_noise(shape, seed, width, dtype="float64"):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    return jnp.asarray((noise - noise.min()) / np.ptp(noise), dtype)


@pytest.mark.parametrize("shape", [(96, 33, 34), (112, 48)])
def test_fold_free_equals_that_of_one_device(shape):
    """With folds that are wide, which half the resolution sees, across the slabs."""
    u = jnp.stack([80 * smooth_noise(shape, k, 2.5) for k in range(len(shape))], axis=-1)
    assert int(count_folds(u, scheme="digital")) > 50
    result, expected = fold_free(u, mesh=MESH), fold_free(u)
    assert int(result.folds) == 0
    assert int(result.iterations) == int(expected.iterations) > 3
    np.testing.assert_allclose(result.displacement, expected.displacement, atol=1e-11)
    np.testing.assert_allclose(result.change_rms, expected.change_rms, rtol=1e-9)
    assert result.displacement.sharding.spec == P("data")


@pytest.mark.parametrize(
    ("shape", "other", "settings"),
    [
        ((101, 30), (99, 33), {"affine": "affine"}),
        ((101, 30), (101, 30), {"method": "energy", "projection": None}),
        ((100, 10, 11), (98, 11, 12), {"spacing": ((1.0, 1.5, 1.0), (1.0, 1.5, 1.0))}),
        # One device has no voxel that counts, and two none of the volume.
        ((97, 30), (97, 30), {"similarity": "mse", "method": "symmetric", "masked": True}),
    ],
)
def test_registration_equals_that_of_one_device(shape, other, settings):
    settings = {"levels": 2, "steps": 5, "affine": None, **settings}
    if settings.pop("masked", False):
        settings["fixed_mask"] = jnp.asarray(np.indices(shape)[0] < 60)
    fixed, moving = smooth_noise(shape, 3, 2.0), smooth_noise(other, 4, 2.0)
    result, expected = (register(fixed, moving, mesh=m, **settings) for m in (MESH, None))
    assert float(jnp.abs(expected.displacement).max()) > 0.5
    for name in ("affine", "displacement", "moved", "loss", "folds"):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), atol=1e-8)


def test_a_device_needs_about_a_fifth_of_what_one_alone_needs():
    """In the steps of the symmetric method, which need most, and in the projection."""

    def memory(split):
        place = lambda spec: split and NamedSharding(split.mesh, spec)
        array = lambda spec, *shape: jax.ShapeDtypeStruct(shape, "float32", sharding=place(spec))
        shape = (512, 128, 128)
        size = (jax.ShapeDtypeStruct((), "int32", sharding=place(P())),) * 3
        level = Level(Image((array(P(), *shape),), None, (1.0,) * 3, size), (1.0,) * 3)
        half, number = (array(P("data"), *shape),) * 3, array(P())
        steps = symmetric_level.lower(
            level,
            level,
            array(P(), 3, 4),
            (half, half),
            number,
            number,
            steps=2,
            measures=(ncc_within,),
            widths=((2, 2),) * 3,
            split=split,
        )
        field = array(P("data"), *shape, 3)
        mesh = split and split.mesh
        project = jax.jit(functools.partial(fold_free, mesh=mesh)).lower(field)
        analyses = [stage.compile().memory_analysis() for stage in (steps, project)]
        return [
            a.temp_size_in_bytes + a.output_size_in_bytes + a.argument_size_in_bytes
            for a in analyses
        ]

    for slab, whole in zip(memory(Split(MESH, "data")), memory(None), strict=True):
        assert slab < whole / 4.5


def test_bad_slabs_are_named(unchecked):
    with pytest.raises(ValueError, match="accepted is 12 or more planes on the first axis for"):
        fold_free(jnp.zeros((88, 5, 4, 3)), mesh=MESH)
    fixed = jnp.asarray(np.random.default_rng(0).normal(size=(96, 12)))
    with pytest.raises(ValueError, match="similarity='mi': accepted is with a mesh 'ncc' or 'mse'"):
        register(fixed, fixed, similarity="mi", mesh=MESH)
    with pytest.raises(ValueError, match="accepted is with a mesh 'fold_free' or None"):
        register(fixed, fixed, projection="layer", mesh=MESH)
    with pytest.raises(ValueError, match="accepted is 96 planes or more on the first axis for 8"):
        register(fixed[:90], fixed, mesh=MESH)
    with pytest.raises(ValueError, match="axis=.x.: accepted is one of .data."):
        register(fixed, fixed, mesh=MESH, axis="x")
