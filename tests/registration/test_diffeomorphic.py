"""The Poisson layer against its definition in float64 numpy and scipy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import simplices_reference as reference
from jax.test_util import check_grads

from jaxml.registration import Reconstruction, diffeomorphic_layer, layer_residual

EACH_VOLUME = pytest.mark.parametrize("shape", [(9, 11), (7, 9, 8)])
EACH_BOUNDARY = pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
EACH_VOLUME_AND_PRECISION = pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        ((9, 11), np.float64, 1e-12),
        ((7, 9, 8), np.float64, 1e-12),
        ((7, 9, 8), np.float32, 1e-5),
    ],
)


def field(shape, rms=0.9):
    return reference.smooth_noise(0, shape, 1.0, rms=rms)


def released(u):
    """The published form: forward differences, exp, divergence inside, sine transform."""
    exponential = scipy.linalg.expm(reference.differences(u, "forward"))
    ndim = u.shape[-1]
    inner = (slice(1, -1),) * ndim
    axes = [2 * np.cos(np.pi * np.arange(1, n - 1) / (n - 1)) - 2 for n in u.shape[:-1]]
    out = np.zeros_like(u)
    for i in range(ndim):
        rhs = sum(
            exponential[..., i, a] - np.roll(exponential[..., i, a], 1, axis=a) for a in range(ndim)
        )
        spectrum = scipy.fft.dstn(rhs[inner], 1) / functools.reduce(np.add.outer, axes)
        out[(*inner, i)] = scipy.fft.idstn(spectrum, 1)
    return out, exponential


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))


@EACH_VOLUME_AND_PRECISION
def test_equals_the_released_form(shape, dtype, tolerance):
    u = field(shape).astype(dtype)
    found = diffeomorphic_layer(jnp.asarray(u))
    displacement, exponential = released(u.astype(float))
    assert found.displacement.dtype == found.exponential.dtype == dtype
    assert_close(found.displacement, displacement, tolerance)
    assert_close(found.exponential, exponential, tolerance)


def test_many_voxels_in_chunks(monkeypatch):
    """More voxels than a chunk holds, no multiple of it."""
    monkeypatch.setattr("jaxml.registration._diffeomorphic._CHUNK", 200)
    u = field((9, 10, 13)).astype(np.float32)
    found = jax.jit(diffeomorphic_layer)(jnp.asarray(u))
    displacement, exponential = released(u.astype(float))
    assert_close(found.displacement, displacement, 1e-5)
    assert_close(found.exponential, exponential, 1e-5)


@EACH_VOLUME_AND_PRECISION
def test_neumann_solves_its_normal_equations(shape, dtype, tolerance):
    """D^T (D u' - (exp J - I)) = 0 over the edges D of the volume, and the mean of u."""
    u = field(shape).astype(dtype)
    found = np.asarray(diffeomorphic_layer(jnp.asarray(u), boundary="neumann").displacement, float)
    exponential = released(u.astype(float))[1]
    ndim = len(shape)
    for i in range(ndim):
        gradient, scale = np.zeros(shape), 0
        for a in range(ndim):
            edge = tuple(slice(-1) if k == a else slice(None) for k in range(ndim))
            residual = np.diff(found[..., i], axis=a) - (exponential[..., i, a] - (i == a))[edge]
            far, near = ([p if k == a else (0, 0) for k in range(ndim)] for p in ((1, 0), (0, 1)))
            gradient += np.pad(residual, far) - np.pad(residual, near)
            scale = max(scale, np.abs(residual).max())
        assert np.abs(gradient).max() <= 3 * tolerance * scale
    axes = tuple(range(ndim))
    np.testing.assert_allclose(found.mean(axes), u.astype(float).mean(axes), atol=tolerance)


@EACH_BOUNDARY
def test_translation_has_no_gradient_to_keep(boundary):
    u = jnp.broadcast_to(jnp.array([3.0, -2.0, 0.5]), (5, 6, 7, 3))
    found = diffeomorphic_layer(u, boundary=boundary)
    np.testing.assert_allclose(
        found.displacement, np.zeros(u.shape) if boundary == "dirichlet" else u, atol=1e-12
    )
    np.testing.assert_array_equal(found.exponential, np.broadcast_to(np.eye(3), (5, 6, 7, 3, 3)))


def test_exponential_has_positive_determinants_where_the_field_folds():
    u = field((16, 16), rms=4.0)
    assert reference.folds(u)["forward"] > 10
    exponential = diffeomorphic_layer(jnp.asarray(u)).exponential
    trace = np.trace(reference.differences(u, "forward"), axis1=-2, axis2=-1)
    np.testing.assert_allclose(np.linalg.det(exponential), np.exp(trace), rtol=1e-9)


@pytest.mark.parametrize(
    "shape, boundary", [((5, 4), "dirichlet"), ((5, 4), "neumann"), ((4, 3, 5), "neumann")]
)
def test_gradients_equal_finite_differences(shape, boundary):
    @jax.jit
    def layer_and_loss(u):
        found = diffeomorphic_layer(u, boundary=boundary)
        return found.displacement, found.exponential, layer_residual(found)

    u = jnp.asarray(field(shape))
    check_grads(layer_and_loss, (u,), order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


@EACH_BOUNDARY
@EACH_VOLUME
def test_vmap_equals_one_by_one(shape, boundary):
    batch = jnp.stack([jnp.asarray(reference.smooth_noise(s, shape, 1.0)) for s in range(3)])
    layer = functools.partial(diffeomorphic_layer, boundary=boundary)
    together = jax.jit(jax.vmap(layer))(batch)
    for i, u in enumerate(batch):
        alone = layer(u)
        np.testing.assert_allclose(together.displacement[i], alone.displacement, atol=1e-12)
        np.testing.assert_allclose(together.exponential[i], alone.exponential, atol=1e-12)


@EACH_VOLUME
def test_layer_residual(shape):
    u, exponential = (
        field(shape),
        np.random.default_rng(1).standard_normal((*shape, *(len(shape),) * 2)),
    )
    reconstruction = Reconstruction(jnp.asarray(u), jnp.asarray(exponential))
    gradient = reference.differences(u, "forward")
    np.testing.assert_allclose(
        layer_residual(reconstruction),
        np.mean((exponential - gradient - np.eye(len(shape))) ** 2),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        layer_residual(reconstruction, released=True),
        np.mean((exponential - gradient) ** 2),
        rtol=1e-12,
    )


def test_bad_input_is_named(unchecked):
    bad = {
        r"u=float64\[3, 8, 8, 8\]: accepted is \[H, W, 2\] or": jnp.zeros((3, 8, 8, 8)),
        r"u=float64\[8, 8, 8\]: accepted is": jnp.zeros((8, 8, 8)),
        r"u=float64\[8, 2, 2\]: accepted is .* with 3 voxels or more an axis": jnp.zeros((8, 2, 2)),
        r"u=int32\[8, 8, 2\]: accepted is floating": jnp.zeros((8, 8, 2), "int32"),
        r"u=float64\[8, 8, 2\] with NaN": jnp.full((8, 8, 2), jnp.nan),
    }
    for message, u in bad.items():
        with pytest.raises(ValueError, match=message):
            diffeomorphic_layer(u)
    with pytest.raises(
        ValueError, match="boundary='periodic': accepted is one of 'dirichlet', 'neumann'"
    ):
        diffeomorphic_layer(jnp.zeros((8, 8, 2)), boundary="periodic")
    with pytest.raises(ValueError, match=r"u=float64\[4, 4, 4\]: accepted is"):
        layer_residual(Reconstruction(jnp.zeros((4, 4, 4)), jnp.zeros((4, 4, 2, 2))))
