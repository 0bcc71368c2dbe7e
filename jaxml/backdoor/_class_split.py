"""Class split: the smaller or more suspicious part of a class whose features are two clouds."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.backdoor.baselines._classes import (
    centered,
    check_features_of_classes,
    for_each_class,
    principal_axes,
)

# Below this share of a class a cloud is taken for the poisoned one whatever the hint says:
# up to this ratio, poison spread over all classes is the smaller cloud of each.
_SURELY_SMALLER = 0.25
_RIDGE = 1e-2


def class_split(
    features: Float[Array, "row feature"],
    labels: Int[Array, " row"],
    hint: Float[Array, " row"],
    *,
    classes: int = 10,
    components: int = 10,
    iterations: int = 50,
    tied: bool = True,
) -> Float[Array, " row"]:
    """Score rows by a mixture of two Gaussians in the features of their class.

    The features of each class, on their principal components of unit variance, are fitted by
    two Gaussians (EM, begun along each component, the likeliest kept) and by one. The score is
    g tanh(l / 2): l the row's log-odds for the poisoned cloud and g the class's gain in
    log-likelihood a row from the second Gaussian, by which a class that really is two clouds
    ranks before those that are one. The poisoned cloud is the one that holds less than a
    quarter of the class, or else the one of higher mean `hint`: over the rows of a cloud a hint
    that is little better than chance decides safely.

    Args:
      features: of a late layer, or the likelihoods of `baselines.flare`, `[row, feature]`.
      labels: given labels `[row]`, 0..classes-1.
      hint: any score that is higher for poisoned rows on average, `[row]`.
      classes: how many.
      components: principal components kept, or all if there are fewer.
      iterations: of EM.
      tied: whether both Gaussians share one covariance, which suits features that no training
        has drawn together, such as likelihoods. Pooled activations of poisoned rows are denser
        than those of clean ones: there each has its own.

    Returns:
      Scores `[row]`, higher is more suspicious; 0 in a class without rows of two clouds.

    Raises:
      ValueError: the features or the hint are not finite floating-point numbers, the labels are
        not integers 0..classes-1, one a row, or a setting is below 1. Values are looked at where
        concrete.

    Source: ours; like SCAn (Tang et al. 2021, USENIX Security) a likelihood ratio of two means
    against one, but without clean data and with a side chosen.
    """
    check_features_of_classes(features, labels, classes)
    checks.counts(components=components, iterations=iterations)
    checks.same_shape(labels=labels, hint=hint)
    checks.floating(hint=hint)
    checks.finite(hint=hint)
    return _split(
        features,
        labels,
        hint,
        classes=classes,
        components=components,
        iterations=iterations,
        tied=tied,
    )


@functools.partial(jax.jit, static_argnames=("classes", "components", "iterations", "tied"))
def _split(features, labels, hint, *, classes, components, iterations, tied):
    kept = min(components, features.shape[1])

    def score(member):
        rows = centered(features, member)
        rows = rows @ principal_axes(rows)[:, :kept]
        count = jnp.maximum(jnp.sum(member), 1).astype(rows.dtype)
        variance = jnp.sum(rows**2, axis=0) / count
        rows = rows / jnp.sqrt(jnp.where(variance > 0, variance, 1))[None]
        weight = member.astype(rows.dtype)
        from_axis = functools.partial(_two_clouds, rows, weight, iterations=iterations, tied=tied)
        odds, gain = jax.vmap(from_axis)(jnp.arange(kept))
        best = jnp.argmax(gain)
        return gain[best] * jnp.tanh(_towards_poison(odds[best], weight, hint) / 2)

    return for_each_class(score, labels, classes)


def _two_clouds(rows, weight, axis, *, iterations, tied):
    """Return log-odds of the second cloud `[row]` and the gain a row, by EM from an axis.

    Args:
      rows: `[row, feature]`, of mean 0 and variance 1 or 0.
      weight: 1 for the rows of the class, `[row]`.
      axis: of the start.
      iterations: of EM.
      tied: whether the clouds share one covariance.
    """
    total = jnp.maximum(jnp.sum(weight), 1)
    scatter = (weight[None] * rows.T) @ rows

    def covariance_of(part, n, m):
        return (part[None] * rows.T) @ rows / n - jnp.outer(m, m)

    def log_densities(second):
        """ln p_k N(x; m_k, C_k) of both clouds, `[cloud, row]`."""
        second = second * weight
        parts = jnp.stack([weight - second, second])
        n = jnp.maximum(jnp.sum(parts, axis=1), 1)
        m = parts @ rows / n[:, None]
        covariance = jax.vmap(covariance_of)(parts, n, m)
        if tied:
            both = jnp.tensordot(n / jnp.sum(n), covariance, 1)
            covariance = jnp.broadcast_to(both, covariance.shape)
        return (
            jax.vmap(_log_density, (None, 0, 0))(rows, m, covariance) + jnp.log(n / total)[:, None]
        )

    def step(_, second):
        first, second = log_densities(second)
        return jax.nn.sigmoid(second - first)

    start = jax.nn.sigmoid(3 * rows[:, axis])
    first, second = log_densities(lax.fori_loop(0, iterations, step, start))
    one = _log_density(rows, jnp.zeros_like(rows[0]), scatter / total)
    gain = jnp.sum(weight * (jnp.logaddexp(first, second) - one)) / total
    return second - first, gain


def _log_density(rows, mean, covariance):
    """Log-density of a Gaussian with a ridge, up to the constant of pi."""
    ridge = _RIDGE * jnp.eye(rows.shape[1], dtype=rows.dtype)
    factor = jnp.linalg.cholesky(covariance + ridge)
    white = jax.scipy.linalg.solve_triangular(factor, (rows - mean[None]).T, lower=True)
    return -jnp.sum(white**2, axis=0) / 2 - jnp.sum(jnp.log(jnp.diag(factor)))


def _towards_poison(odds, weight, hint):
    """Return the log-odds, their sign turned so that positive means the poisoned cloud."""
    second = weight * jax.nn.sigmoid(odds)
    first = weight - second
    n1, n2 = jnp.sum(first), jnp.sum(second)
    mean = lambda part, n: part @ hint / jnp.maximum(n, 1)
    by_hint = mean(second, n2) > mean(first, n1)
    unequal = jnp.minimum(n1, n2) < _SURELY_SMALLER * (n1 + n2)
    return jnp.where(jnp.where(unequal, n2 < n1, by_hint), odds, -odds)
