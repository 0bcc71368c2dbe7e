"""Mode connectivity: whether two models are joined by a path of models as good as they are.

The factors of LoRA must be merged into the parameters first: a product of mixed factors is not
the mix of the products.

A function of parameters that holds arrays of its own, such as texts, is best a
`jax.tree_util.Partial` of them: the compiled program then serves other texts too. Of any other
function keep the object, as the program is known by it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.tracing import as_partial, known, nan_unless
from jaxml.unlearning._counted import check_values
from jaxml.unlearning._optimise import minimise, optimizer_or_adamw


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """Measures along a path of models.

    Attributes:
      points: places on the path, `[point]`: 0 is the first model, 1 the second.
      values: pytree of `[point, ...]`: what was evaluated at each.
    """

    points: Float[Array, "*set point"]
    values: PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bend:
    """Result of fitting a curve between two models.

    Attributes:
      middle: parameters of the control point, for `bezier_path`.
      history: the loss at a random place of the curve at every step, `[step]`.
    """

    middle: PyTree
    history: Float[Array, "*set step"]


def linear_path(
    evaluate: Callable[[PyTree], Any],
    params_a: PyTree,
    params_b: PyTree,
    *,
    points: int | Float[Array, " point"] = 11,
) -> Path:
    """Return measures of the models on the straight line (1 - l) a + l b.

    All are evaluated one after another by one compiled program.

    Args:
      evaluate: function of parameters to a pytree of arrays, such as losses.
      params_a: a, a pytree of floating-point arrays `[...]`; mixed in float32 or better.
      params_b: b, of the structure of `params_a`.
      points: values of l, `[point]`; or how many, evenly from 0 to 1.

    Returns:
      The points and the values at each.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes, a leaf is not
        floating-point, or `points` are not some on one axis.

    Source: Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis" (ICML
    2020).
    """
    return _path(evaluate, points, params_a=params_a, params_b=params_b)


def bezier_path(
    evaluate: Callable[[PyTree], Any],
    params_a: PyTree,
    middle: PyTree,
    params_b: PyTree,
    *,
    points: int | Float[Array, " point"] = 11,
) -> Path:
    """Return measures of the models on the curve (1 - l)^2 a + 2 l (1 - l) m + l^2 b.

    Args:
      evaluate: function of parameters to a pytree of arrays, such as losses.
      params_a: a, a pytree of floating-point arrays `[...]`; mixed in float32 or better.
      middle: m, of the structure of `params_a`, as of `bezier_fit`.
      params_b: b, of the structure of `params_a`.
      points: values of l, `[point]`; or how many, evenly from 0 to 1.

    Returns:
      The points and the values at each.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes, a leaf is not
        floating-point, or `points` are not some on one axis.

    Source: Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs"
    (NeurIPS 2018).
    """
    return _path(evaluate, points, params_a=params_a, middle=middle, params_b=params_b)


def bezier_fit(
    key: Key[Array, ""],
    loss: Callable[[PyTree, Array], Array],
    params_a: PyTree,
    params_b: PyTree,
    *,
    steps: int = 100,
    learning_rate: float = 1e-5,
    optimizer: optax.GradientTransformation | None = None,
) -> Bend:
    """Return the control point of a curve between two models along which the loss is low.

    It starts as the mean of both models. Each step lowers the loss at one place of the curve,
    uniform on 0 to 1; the ends stay.

    Args:
      key: of the places and of the loss; consumed.
      loss: function of parameters and a key, for a batch it may draw, to a scalar.
      params_a: one end, a pytree of floating-point arrays `[...]`.
      params_b: the other end, of the structure of `params_a`.
      steps: of the optimizer.
      learning_rate: of AdamW, constant.
      optimizer: instead of AdamW without decay; keep the object, as a compiled loop is known
        by it.

    Returns:
      The control point, and the loss at each step.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes, a leaf is not
        floating-point, or a number is out of range.

    Source: Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs"
    (NeurIPS 2018).
    """
    _check_models(params_a=params_a, params_b=params_b)
    checks.counts(steps=steps)
    checks.positive(learning_rate=learning_rate)
    optimizer = optimizer_or_adamw(optimizer, learning_rate, params_a=params_a)
    return _fit(key, params_a, params_b, as_partial(loss), steps=steps, optimizer=optimizer)


@half_as_single
def barrier(points: Float[Array, " point"], loss: Float[Array, " point"]) -> Float[Array, ""]:
    """Return how far the loss rises on a path above the line between its ends.

    max over l of L(l) - ((1 - l) L(0) + l L(1)). Of a measure that is high for a good model take
    minus it.

    Args:
      points: l, `[point]`: the first 0, the last 1, the others between.
      loss: L at each, `[point]`, such as `values` of a `Path`.

    Returns:
      0 or more, in the unit of the loss; NaN if a loss is, or if points are others and that
      cannot be seen, as under `jax.jit`.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or `points` are not from 0 to 1.

    Source: Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis" (ICML
    2020).
    """
    checks.rows(points=points, loss=loss)
    if not known(points, _span_the_path):
        raise checks.refused("points", points, "0 first, 1 last, the others between")
    l = points.astype(loss.dtype)
    rise = jnp.max(loss - ((1 - l) * loss[0] + l * loss[-1]))
    # A maximum leaves out -infinity, and on some devices NaN.
    return nan_unless(_span_the_path(points) & jnp.all(loss > -jnp.inf), rise)


def _path(evaluate: Callable[[PyTree], Any], points: int | Array, **controls: PyTree) -> Path:
    _check_models(**controls)
    trees = tuple(controls.values())
    return _evaluate(_places(points, trees), trees, as_partial(evaluate))


@jax.jit
def _evaluate(points, controls, evaluate) -> Path:
    return Path(points, lax.map(lambda l: evaluate(_model(l, controls)), points))


@functools.partial(jax.jit, static_argnames=("steps", "optimizer"))
def _fit(key, params_a, params_b, loss, *, steps, optimizer) -> Bend:
    def at_random(middle, key):
        key_place, key_loss = jax.random.split(key)
        l = jax.random.uniform(key_place, (), _wide(jax.tree.leaves(middle)))
        return loss(_model(l, (params_a, middle, params_b)), key_loss), {}

    half = jnp.asarray(0.5, _wide(jax.tree.leaves(params_a)))
    start = _model(half, (params_a, params_b))
    middle, history = minimise(key, start, at_random, steps=steps, optimizer=optimizer)
    return Bend(middle, history["loss"])


def _model(l: Array, controls: tuple[PyTree, ...]) -> PyTree:
    """Model at one place, from 2 or 3 control points."""
    weights = (1 - l, l) if len(controls) == 2 else ((1 - l) ** 2, 2 * l * (1 - l), l**2)

    def mix(*leaves):
        wide = _wide(leaves)
        terms = [w.astype(wide) * x.astype(wide) for w, x in zip(weights, leaves, strict=True)]
        return functools.reduce(jnp.add, terms).astype(leaves[0].dtype)

    return jax.tree.map(mix, *controls)


def _places(points: int | Array, trees: PyTree) -> Array:
    if isinstance(points, int):
        checks.counts(least=2, points=points)
        return jnp.linspace(0, 1, points, dtype=_wide(jax.tree.leaves(trees)))
    checks.rows(points=points)
    return points


def _span_the_path(l: Array) -> Array:
    return (l[0] == 0) & (l[-1] == 1) & jnp.all((l >= 0) & (l <= 1))


def _wide(leaves: Any) -> jnp.dtype:
    """Single precision, or double if a leaf has it."""
    double = any(leaf.dtype == jnp.float64 for leaf in leaves)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def _check_models(**trees: PyTree) -> None:
    checks.same_trees(**trees)
    name, first = next(iter(trees.items()))
    for path, leaf in jax.tree_util.tree_leaves_with_path(first):
        check_values(**{f"{name}{jax.tree_util.keystr(path)}": leaf})
