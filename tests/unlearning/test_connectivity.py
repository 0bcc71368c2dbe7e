"""Paths between models where the loss along them is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from jax.tree_util import Partial

from jaxml.unlearning.connectivity import barrier, bezier_fit, bezier_path, linear_path

KEYS = jax.random.split(jax.random.key(0), 3)
RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(5, 3)))


def tree(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return {
        "in": jnp.asarray(rng.normal(size=(3, 4)), dtype),
        "out": [jnp.asarray(rng.normal(size=4), dtype)],
    }


def network(params):
    return jnp.tanh(INPUTS.astype(params["in"].dtype) @ params["in"]) @ params["out"][0]


def measures(params):
    outputs = network(params)
    return {"outputs": outputs, "loss": jnp.mean(outputs**2)}


def mixed(l, *controls):
    """The curve by de Casteljau's rule: lines between lines."""
    while len(controls) > 1:
        pairs = zip(controls[:-1], controls[1:], strict=True)
        controls = [jax.tree.map(lambda x, y: x + l * (y - x), *pair) for pair in pairs]
    return controls[0]


PATHS = [(linear_path, (tree(0), tree(1))), (bezier_path, (tree(0), tree(2), tree(1)))]


@pytest.mark.parametrize(("path", "controls"), PATHS)
def test_values_are_those_of_models_one_by_one(path, controls):
    for points, expected in (
        (4, np.linspace(0, 1, 4)),
        (jnp.array([0.3, -0.5, 1.5]), [0.3, -0.5, 1.5]),
    ):
        found = path(measures, *controls, points=points)
        np.testing.assert_array_equal(found.points, expected)
        for i, l in enumerate(expected):
            one = measures(mixed(l, *controls))
            same = lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-12)  # noqa: B023
            jax.tree.map(same, found.values, one)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("path", "controls"), PATHS)
def test_ends_are_the_models_themselves(path, controls, dtype):
    controls = jax.tree.map(lambda leaf: leaf.astype(dtype), controls)
    found = path(lambda params: params, *controls, points=3)
    assert found.points.dtype == ("float64" if dtype == "float64" else "float32")
    for values, first, last in zip(
        *map(jax.tree.leaves, (found.values, controls[0], controls[-1])), strict=True
    ):
        assert values.dtype == dtype
        np.testing.assert_array_equal(values[0], first)
        np.testing.assert_array_equal(values[2], last)


def test_half_precision_is_mixed_in_single():
    a, b, l = jnp.array([1.0], "bfloat16"), jnp.array([3.0], "bfloat16"), jnp.float32(1 / 1024)
    found = linear_path(lambda params: params, a, b, points=l[None])
    # 1 - l is 1 in bfloat16, which would give 1 + 3 / 1024; the mix is nearer to 1.
    assert found.values[0, 0] == 1
    exact = linear_path(lambda params: params, a, b, points=jnp.array([0.3], "float32"))
    assert exact.values[0, 0] == jnp.bfloat16(1.6)


def test_all_points_and_other_data_are_one_program():
    traces = []

    def evaluate(inputs, params):
        traces.append(None)
        return inputs @ params["in"]

    for i in range(3):
        inputs = INPUTS + i
        found = linear_path(Partial(evaluate, inputs), tree(i), tree(1), points=7)
        np.testing.assert_allclose(found.values[0], inputs @ tree(i)["in"])
        if not i:
            first = len(traces)
    assert len(traces) == first


@pytest.mark.parametrize(("path", "controls"), PATHS)
def test_maps_and_has_gradients(path, controls):
    values = lambda *controls: path(measures, *controls, points=5).values["loss"]
    several = [jax.tree.map(lambda x: jnp.stack([x, 2 * x, x - 1]), c) for c in controls]
    found = jax.jit(jax.vmap(values))(*several)
    for i in range(3):
        one = values(*(jax.tree.map(lambda x: x[i], c) for c in several))  # noqa: B023
        np.testing.assert_allclose(found[i], one, rtol=1e-12)
    check_grads(jax.jit(values), controls, order=1, modes=("rev",))
    height = lambda *controls: barrier(jnp.linspace(0, 1, 5), values(*controls))
    check_grads(jax.jit(height), controls, order=1, modes=("rev",))


def double_well(params):
    return (params["x"] ** 2 - 1) ** 2


def test_barrier_of_a_double_well():
    """On x = 2 l - 1 the loss is (x^2 - 1)^2: 0 at both ends and 1 between."""
    ends = {"x": jnp.array(-1.0)}, {"x": jnp.array(1.0)}
    found = linear_path(double_well, *ends)
    np.testing.assert_allclose(barrier(found.points, found.values), 1, rtol=1e-12)
    np.testing.assert_allclose(found.values, ((2 * found.points - 1) ** 2 - 1) ** 2, atol=1e-12)
    tilted = linear_path(lambda params: double_well(params) + 3 * params["x"] + 5, *ends)
    np.testing.assert_allclose(barrier(tilted.points, tilted.values), 1, rtol=1e-12)


def test_no_barrier_in_a_bowl_and_that_of_a_cap():
    bowl = lambda params: sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
    found = linear_path(bowl, tree(0), tree(1))
    assert barrier(found.points, found.values) == 0
    # Of a parabola -|theta|^2 the rise is l (1 - l) |a - b|^2.
    apart = sum(
        float(jnp.sum((x - y) ** 2))
        for x, y in zip(*map(jax.tree.leaves, (tree(0), tree(1))), strict=True)
    )
    np.testing.assert_allclose(barrier(found.points, -found.values), apart / 4, rtol=1e-12)


def test_a_loss_that_is_not_a_number_is_no_good_path():
    points = jnp.linspace(0, 1, 3)
    assert jnp.isnan(barrier(points, jnp.array([0.0, jnp.nan, 0.0])))
    assert barrier(points, jnp.array([0.0, jnp.inf, 0.0])) == jnp.inf


def bump(params, key=None):
    """A hill on the straight line between (-1, 0) and (1, 0), and a valley floor around it."""
    return jnp.exp(-8 * jnp.sum(params**2)) + 0.01 * params[1] ** 2


LEFT, RIGHT = jnp.array([-1.0, 0.05]), jnp.array([1.0, 0.05])


def test_fitted_curve_goes_around_a_bump():
    fit = functools.partial(bezier_fit, steps=400, learning_rate=0.02)
    found = jax.jit(jax.vmap(lambda key: fit(key, bump, LEFT, RIGHT)))(KEYS)
    straight = linear_path(bump, LEFT, RIGHT)
    assert barrier(straight.points, straight.values) > 0.9
    for i, key in enumerate(KEYS):
        curve = bezier_path(bump, LEFT, found.middle[i], RIGHT)
        assert barrier(curve.points, curve.values) < 0.1
        np.testing.assert_allclose(fit(key, bump, LEFT, RIGHT).middle, found.middle[i], rtol=1e-6)
    assert found.history.shape == (3, 400)
    assert np.all(found.history[:, -100:].mean(1) < found.history[:, :100].mean(1) / 2)


def test_a_step_of_the_fit_by_hand():
    """Of a linear loss w . theta the gradient is 2 l (1 - l) w, which tells the place l."""
    linear = lambda params, key: 2 * jnp.sum(params["in"]) - jnp.sum(params["out"][0])
    a, b = tree(0), tree(1)
    found = bezier_fit(KEYS[0], linear, a, b, steps=1, optimizer=optax.sgd(1.0))
    half = mixed(0.5, a, b)
    moved = (half["in"] - found.middle["in"]) / 2
    np.testing.assert_allclose(moved, moved[0, 0], rtol=1e-9)
    # The slope 2 l (1 - l).
    np.testing.assert_allclose(found.middle["out"][0] - half["out"][0], moved[0, 0], rtol=1e-9)
    place = (1 - np.sqrt(1 - 2 * moved[0, 0])) / 2
    assert 0 < place < 0.5
    values = [linear(mixed(l, a, half, b), None) for l in (place, 1 - place)]
    assert np.min(np.abs(np.asarray(values) - found.history[0])) < 1e-9


def test_the_loss_of_a_fit_gets_a_key_of_its_own_at_every_step():
    drawn = lambda params, key: jax.random.uniform(key, ()) + 0 * params[0]
    history = bezier_fit(KEYS[0], drawn, LEFT, RIGHT, steps=20).history
    assert len(np.unique(history)) == 20


def test_factors_of_lora_must_be_merged():
    """a b and (-a)(-b) are one model, but the mean of the factors is none at all."""
    a, b = jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=(2, 3)))
    product = lambda factors: factors[0] @ factors[1]
    merged = linear_path(lambda matrix: matrix, product((a, b)), product((-a, -b)), points=3)
    np.testing.assert_allclose(merged.values[1], a @ b, rtol=1e-12)
    unmerged = linear_path(product, (a, b), (-a, -b), points=3)
    np.testing.assert_array_equal(unmerged.values[1], 0)


def test_trees_that_differ_are_named(unchecked):
    a = tree(0)
    with pytest.raises(
        ValueError, match=r"params_b=PyTreeDef.*the structure of params_a, PyTreeDef"
    ):
        linear_path(measures, a, {"in": a["in"]})
    with pytest.raises(
        ValueError, match=r"params_b\['in'\]=float32\[3, 4\]: .*float64.* of params_a"
    ):
        linear_path(measures, a, a | {"in": a["in"].astype("float32")})
    with pytest.raises(ValueError, match=r"middle\['out'\]\[0\]=float64\[2\]: .* of params_a"):
        bezier_path(measures, a, a | {"out": [jnp.zeros(2)]}, a)
    counter = a | {"step": jnp.array(3)}
    for call in (linear_path, bezier_fit):
        keys = KEYS[:1] if call is bezier_fit else ()
        with pytest.raises(ValueError, match=r"params_a\['step'\]=3: accepted is fl"):
            call(*keys, measures, counter, counter)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: linear_path(measures, a, a, points=1),
            "points=1: accepted is a whole number, 2 or more",
        ),
        (
            lambda a: linear_path(measures, a, a, points=jnp.zeros((2, 2))),
            r"points=float64\[2, 2\]: accepted is \[row\]",
        ),
        (lambda a: linear_path(measures, a, a, points=jnp.arange(3)), "points=int"),
        (lambda a: bezier_fit(KEYS[0], bump, a, a, steps=0), "steps=0"),
        (lambda a: bezier_fit(KEYS[0], bump, a, a, learning_rate=-1.0), "learning_rate=-1.0"),
        (lambda a: barrier(jnp.linspace(0, 1, 3), jnp.zeros(2)), r"loss=\w+\[2\]"),
        (lambda a: barrier(jnp.linspace(0, 1, 3), jnp.zeros(3, int)), "loss=int"),
        (lambda a: barrier(jnp.linspace(0, 0.9, 3), jnp.zeros(3)), "points=.* 0 first, 1 last"),
        (lambda a: barrier(jnp.array([0, 2.0, 1]), jnp.zeros(3)), "points=.*the others between"),
        (lambda a: barrier(jnp.array([0, jnp.nan, 1]), jnp.zeros(3)), "points=.*the others"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(tree(0))
