import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxml.speech._identify import correlation_matrix, identify_speakers, match_templates

compiled_identify = jax.jit(identify_speakers, static_argnames=("speakers", "shrinkage"))
compiled_match = jax.jit(match_templates, static_argnames="speakers")
routes = pytest.mark.parametrize("route", [compiled_identify, compiled_match], ids=["lda", "match"])


def problem(rows, width, speakers, tests=25):
    """Correlated features on scales from 1e-2 to 1e2, and unequal numbers of rows a speaker."""
    rng = np.random.default_rng(rows * width)
    share = np.arange(1, speakers + 1) / np.arange(1, speakers + 1).sum()
    draw = functools.partial(rng.choice, speakers, p=share)
    mixing = rng.normal(size=(width, width)) * 10 ** rng.uniform(-2, 2, width)
    centres = 0.5 * rng.normal(size=(speakers, width))
    features = lambda labels: (rng.normal(size=(len(labels), width)) + centres[labels]) @ mixing + 3
    train = np.concatenate([np.repeat(np.arange(speakers), 3), draw(rows - 3 * speakers)])
    return features(train), train, features(draw(tests))


@pytest.mark.parametrize(
    ("rows", "width", "speakers", "shrinkage"),
    [
        (300, 8, 5, None),
        (40, 120, 5, None),
        (40, 120, 2, None),
        (300, 8, 2, 0.3),
        (40, 120, 5, 0.3),
    ],
)
def test_identify_equals_scikit_learn(rows, width, speakers, shrinkage):
    train, labels, test = problem(rows, width, speakers)
    reference = make_pipeline(
        StandardScaler(),
        LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto" if shrinkage is None else shrinkage
        ),
    ).fit(train, labels)
    found = compiled_identify(train, labels, test, speakers=speakers, shrinkage=shrinkage)
    np.testing.assert_array_equal(found.label, reference.predict(test))
    np.testing.assert_allclose(np.exp(found.score), reference.predict_proba(test), atol=1e-9)
    centred = lambda score: score - score.mean(axis=1, keepdims=True)
    decision, expected = centred(found.score), reference.decision_function(test)
    if speakers == 2:
        decision = decision[:, 1] - decision[:, 0]
    else:
        expected = centred(expected)
    np.testing.assert_allclose(decision, expected, atol=1e-9 * np.abs(expected).max())


def test_eager_equals_compiled():
    train, labels, test = problem(60, 7, 3)
    eager, compiled = (
        f(train, labels, test, speakers=3) for f in (identify_speakers, compiled_identify)
    )
    np.testing.assert_allclose(eager.score, compiled.score, atol=1e-9)
    eager, compiled = (
        f(train, labels, test, speakers=3) for f in (match_templates, compiled_match)
    )
    np.testing.assert_allclose(eager.score, compiled.score, atol=1e-12)


@routes
def test_float32_agrees_with_float64(route):
    train, labels, test = problem(200, 60, 5)
    exact = route(train, labels, test, speakers=5)
    single = route(np.float32(train), labels, np.float32(test), speakers=5)
    assert single.score.dtype == np.float32
    np.testing.assert_array_equal(single.label, exact.label)
    np.testing.assert_allclose(single.score, exact.score, atol=1e-4 * np.abs(exact.score).max())


def test_templates_equal_numpy():
    train, labels, test = problem(100, 12, 4)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    templates = [((train - mean) / deviation)[labels == k].mean(axis=0) for k in range(4)]
    expected = np.corrcoef((test - mean) / deviation, templates)[:25, 25:]
    found = compiled_match(train, labels, test, speakers=4)
    np.testing.assert_allclose(found.score, expected, atol=1e-12)
    np.testing.assert_array_equal(found.label, expected.argmax(axis=1))


def test_correlation_matrix_equals_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 50)), 1e6 + rng.normal(size=(4, 50))
    expected = np.corrcoef(a, b)[:3, 3:]
    np.testing.assert_allclose(correlation_matrix(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(jax.jit(correlation_matrix)(a, a), np.corrcoef(a), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_row_correlates_with_nothing(dtype):
    a = np.stack([np.full(50, 0.1), np.arange(50)]).astype(dtype)
    np.testing.assert_allclose(correlation_matrix(a, a), [[0, 0], [0, 1]], atol=1e-6)


@routes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features_change_nothing(route, dtype):
    train, labels, test = problem(60, 6, 3)
    constant = lambda rows: np.insert(rows, [2, 5], [0.1, 1e5], axis=1).astype(dtype)
    found = route(constant(train), labels, constant(test), speakers=3)
    assert np.isfinite(found.score).all()
    total = lambda x: route(x, labels, constant(test), speakers=3).score.sum()
    assert np.isfinite(jax.jit(jax.grad(total))(jnp.asarray(constant(train)))).all()
    if route is compiled_identify:
        # The diagonal that Ledoit and Wolf shrink to counts a constant feature in the mean.
        kwargs = {"shrinkage": "auto", "solver": "lsqr"}
        reference = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(**kwargs))
        expected = reference.fit(constant(train), labels).predict_log_proba(constant(test))
        np.testing.assert_allclose(
            found.score, expected, atol=1e-9 if dtype == np.float64 else 0.01
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_row_a_speaker_gives_the_nearest_row(dtype):
    rng = np.random.default_rng(0)
    train = rng.normal(size=(6, 20)).astype(dtype)
    test = (train[[3, 0, 5]] + 0.1 * rng.normal(size=(3, 20))).astype(dtype)
    found = compiled_identify(train, np.arange(6), test, speakers=6)
    assert found.label.tolist() == [3, 0, 5]
    assert np.isfinite(found.score).all()


@routes
def test_jit_and_vmap_equal_single_calls(route):
    folds = [problem(60, 7, 3)[:3], problem(60, 7, 3)[:3]]
    folds[1] = (2 * folds[1][0] ** 3, folds[1][1][::-1], folds[1][2])
    single = [route(*fold, speakers=3) for fold in folds]
    call = jax.jit(jax.vmap(functools.partial(route, speakers=3)))
    batch = call(*(np.stack(part) for part in zip(*folds, strict=True)))
    np.testing.assert_allclose(batch.score, [one.score for one in single], atol=1e-9)
    np.testing.assert_array_equal(batch.label, [one.label for one in single])


def test_traced_speaker_without_rows_is_never_named():
    train, labels, test = problem(60, 7, 3)
    found = compiled_identify(train, labels, test, speakers=4)
    np.testing.assert_array_equal(found.score[:, 3], -np.inf)
    expected = compiled_identify(train, labels, test, speakers=3)
    np.testing.assert_allclose(found.score[:, :3], expected.score, atol=1e-9)
    matched = compiled_match(train, labels, test, speakers=4)
    np.testing.assert_array_equal(matched.score[:, 3], 0)


@routes
def test_gradients(route):
    train, labels, test = problem(30, 5, 3, tests=4)
    score = jax.jit(lambda train, test: route(train, labels, test, speakers=3).score)
    scale = np.abs(train).max(axis=0)
    arguments = jnp.asarray(train / scale), jnp.asarray(test / scale)
    check_grads(score, arguments, order=1, atol=1e-4, rtol=1e-4)


GOOD = (np.eye(4), np.array([0, 0, 1, 1]), np.eye(4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("route", [identify_speakers, match_templates])
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((0, 4)), r"train_features=float64\[0, 4\]: accepted is \[row, feature\]"),
        (0, np.zeros(4), r"train_features=float64\[4\]: accepted is \[row, feature\]"),
        (0, np.eye(4, dtype=int), r"train_features=int64\[4, 4\]: accepted is float32 or float64"),
        (0, np.full((4, 4), np.nan), r"train_features=float64\[4, 4\] with NaN"),
        (1, np.array([0, 0, 1]), r"train_labels=int64\[3\]: accepted is integers \[4\]"),
        (1, np.array([0.0, 0, 1, 1]), r"train_labels=float64\[4\]: accepted is integers \[4\]"),
        (
            1,
            np.array([0, 0, 1, 2]),
            r"train_labels=int64\[4\] with values from 0 to 2: accepted is 0 to 1",
        ),
        (
            1,
            np.array([-1, 0, 1, 1]),
            r"train_labels=int64\[4\] with values from -1 to 1: accepted is 0 to 1",
        ),
        (
            1,
            np.array([1, 1, 1, 1]),
            "with no row of speaker 0: accepted is a row or more of each of the 2",
        ),
        (2, np.zeros((0, 4)), r"test_features=float64\[0, 4\]: accepted is \[row, feature\]"),
        (2, np.zeros((3, 5)), r"test_features=float64\[3, 5\]: accepted is \[row, 4\]"),
        (2, np.full((4, 4), np.inf), r"test_features=float64\[4, 4\] with NaN or inf"),
    ],
)
def test_bad_input(route, position, value, message):
    arguments = [*GOOD]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        route(*arguments, speakers=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shrinkage", [0, -0.1, 1.1, np.nan])
def test_bad_shrinkage(shrinkage):
    with pytest.raises(ValueError, match=f"shrinkage={shrinkage}: accepted is above 0 and up to 1"):
        identify_speakers(*GOOD, speakers=2, shrinkage=shrinkage)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.eye(3), np.eye(4), r"b=float64\[4, 4\]: accepted is \[row, 3\]"),
        (np.zeros((2, 1)), np.zeros((2, 1)), r"a=float64\[2, 1\]: accepted is .* 2 features or"),
        (np.eye(3), np.zeros((0, 3)), r"b=float64\[0, 3\]: accepted is \[row, feature\]"),
        (np.zeros(3), np.eye(3), r"a=float64\[3\]: accepted is \[row, feature\]"),
    ],
)
def test_correlation_matrix_rejects(a, b, message):
    with pytest.raises(ValueError, match=message):
        correlation_matrix(a, b)
