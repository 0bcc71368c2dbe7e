"""FLARE: how unlikely the activations of a row are to each batch normalisation."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.tracing import nan_unless


def activation_likelihood(
    activations: Float[Array, "row *place channel"],
    mean: Float[Array, " channel"],
    variance: Float[Array, " channel"],
) -> Float[Array, " row"]:
    """Return the log-likelihood of the least likely input of a batch normalisation, by row.

    min over places and channels of ln N(a; mean, variance).

    Args:
      activations: inputs of the layer `[row, ..., channel]`.
      mean: running mean `[channel]`.
      variance: running variance `[channel]`, positive.

    Returns:
      `[row]`; the columns of the `likelihoods` of `flare`, one a layer.

    Raises:
      ValueError: the activations are not floating-point, or the statistics have not one number
        a channel.

    Source: Hou et al. 2024 (FLARE, arXiv 2411.19479).
    """
    checks.floating(activations=activations)
    if activations.ndim < 2 or 0 in activations.shape:
        accepted = "[row, ..., channel], none of length 0"
        raise checks.refused("activations", activations, accepted)
    for name, values in (("mean", mean), ("variance", variance)):
        if values.shape != activations.shape[-1:]:
            accepted = f"[{activations.shape[-1]}], one for each channel of activations"
            raise checks.refused(name, values, accepted)
    mean, variance = (jnp.expand_dims(x, range(activations.ndim - 1)) for x in (mean, variance))
    log_density = -((activations - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance)) / 2
    return jnp.min(log_density, axis=tuple(range(1, activations.ndim)))


def flare(
    likelihoods: Float[Array, "row layer"], *, share: float = 0.5, iterations: int = 10
) -> Float[Array, " row"]:
    """Score rows by their distance to the majority in FLARE's features.

    The clustering is ours. The paper finds the largest cluster by UMAP and HDBSCAN and calls it
    clean; here it is the `share` of rows that are tightest together, by concentration steps of
    the minimum covariance determinant from median and median deviation of each layer, and the
    score is the Mahalanobis distance to them. Layers are all used, none is dropped.

    Args:
      likelihoods: `activation_likelihood` of every layer, `[row, layer]`.
      share: of the rows that is surely clean, above 0 and at most 1.
      iterations: concentration steps.

    Returns:
      Scores `[row]`, 0 or more, higher is more suspicious.

    Raises:
      ValueError: the likelihoods are not finite floating-point numbers `[row, layer]`, or a
        setting is out of range.

    Source: Hou et al. 2024 (arXiv 2411.19479) for the features; Rousseeuw and Van Driessen 1999
    (Technometrics 41:212) for the steps.
    """
    checks.axes("row layer", likelihoods=likelihoods)
    checks.single_or_double(likelihoods=likelihoods)
    checks.finite(likelihoods=likelihoods)
    checks.positive(share=share)
    checks.within(0, 1, share=share)
    checks.counts(least=0, iterations=iterations)
    kept = max(1, round(share * likelihoods.shape[0]))
    distances = _distances(likelihoods, kept=kept, iterations=iterations)
    return nan_unless(jnp.all(jnp.isfinite(likelihoods)), distances)


@functools.partial(jax.jit, static_argnames=("kept", "iterations"))
def _distances(likelihoods, *, kept, iterations):
    middle = jnp.median(likelihoods, axis=0, keepdims=True)
    spread = jnp.median(jnp.abs(likelihoods - middle), axis=0, keepdims=True)
    # A layer without spread says nothing.
    z = jnp.where(spread > 0, (likelihoods - middle) / jnp.where(spread > 0, spread, 1), 0)
    ridge = 1e-3 * jnp.eye(z.shape[1], dtype=z.dtype)

    def concentrate(_, distance):
        near = z[lax.top_k(-distance, kept)[1]]
        mean = jnp.mean(near, axis=0, keepdims=True)
        covariance = (near - mean).T @ (near - mean) / kept + ridge
        factor = jnp.linalg.cholesky(covariance)
        white = jax.scipy.linalg.solve_triangular(factor, (z - mean).T, lower=True)
        return jnp.linalg.norm(white, axis=0)

    return lax.fori_loop(0, iterations, concentrate, jnp.linalg.norm(z, axis=1))
