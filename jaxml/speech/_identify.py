"""Who spoke: a closed set of enrolled speakers, and the feature vectors of new utterances.

`match_templates` is the published route, `identify_speakers` the better one.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.speech._covariance import class_means, dot, membership, pooled_covariance
from jaxml.tracing import is_concrete

TrainFeatures = Float[Array | np.ndarray, "train feature"]
TrainLabels = Int[Array | np.ndarray, " train"]
TestFeatures = Float[Array | np.ndarray, "test feature"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identification:
    """Speaker of each test row, and the score of every speaker.

    Attributes:
      label: `[test]`, the speaker of highest score.
      score: `[test, speakers]`: log-posterior, or correlation with the template.
    """

    label: Int[Array, "*batch test"]
    score: Float[Array, "*batch test speakers"]


def identify_speakers(
    train_features: TrainFeatures,
    train_labels: TrainLabels,
    test_features: TestFeatures,
    *,
    speakers: int,
    shrinkage: float | None = None,
) -> Identification:
    """Name the speaker of each test row by linear discriminant analysis with shrinkage.

    Features are z-scored on the training rows. The covariance is the prior-weighted mean of
    the speakers' own, each shrunk towards a diagonal on its standardised features, so there
    may be fewer rows than features. Equal to scikit-learn's `LinearDiscriminantAnalysis`
    (solver "lsqr", shrinkage "auto") behind a `StandardScaler`; with one row a speaker,
    where no covariance exists, to the nearest row.

    Args:
      train_features: `[train, feature]`.
      train_labels: `[train]`, speaker numbers 0..speakers-1; their shares are the priors.
      test_features: `[test, feature]`.
      speakers: how many speakers are enrolled.
      shrinkage: weight of the diagonal, in (0, 1]; by Ledoit and Wolf for each speaker if None.

    Returns:
      Labels, and scores that are log-posteriors; -inf for a speaker without a training row,
      which only traced labels can have.

    Raises:
      ValueError: a set is empty or holds NaN or inf, widths or lengths disagree, a label is out
        of range, a speaker has no training row, or `shrinkage` is out of range. Values are
        looked at only where they are concrete.

    Source: Ledoit and Wolf 2004 (J. Multivariate Anal. 88:365).
    """
    if shrinkage is not None and not 0 < shrinkage <= 1:
        raise checks.refused("shrinkage", shrinkage, "above 0 and up to 1, or None")
    train, labels, test = _checked(train_features, train_labels, test_features, speakers)
    train, test = _z_scored(train, test)
    member = membership(labels, speakers, train.dtype)
    means = class_means(train, member)
    covariance = pooled_covariance(train, labels, speakers, shrinkage=shrinkage)
    width = train.shape[1]
    # Tiny beside the unit variance of the features: only a singular covariance feels it.
    ridge = width * jnp.finfo(train.dtype).eps * jnp.eye(width, dtype=train.dtype)
    weights = jax.scipy.linalg.solve(covariance + ridge, means.T, assume_a="pos")
    # ln p(k | x) = x' C^-1 m_k - m_k' C^-1 m_k / 2 + ln prior_k + const
    count = jnp.sum(member, axis=0)
    enrolled = count > 0
    log_prior = jnp.log(jnp.where(enrolled, count, 1) / train.shape[0])
    discriminant = (
        dot(test, weights) - jnp.sum(means.T * weights, axis=0)[None] / 2 + log_prior[None]
    )
    score = jax.nn.log_softmax(jnp.where(enrolled[None], discriminant, -jnp.inf), axis=1)
    return Identification(jnp.argmax(score, axis=1), score)


def match_templates(
    train_features: TrainFeatures,
    train_labels: TrainLabels,
    test_features: TestFeatures,
    *,
    speakers: int,
) -> Identification:
    """Name the speaker whose mean feature vector correlates best with each test row.

    Args:
      train_features: `[train, feature]`, at least 2 features; z-scored on these rows.
      train_labels: `[train]`, speaker numbers 0..speakers-1.
      test_features: `[test, feature]`.
      speakers: how many speakers are enrolled.

    Returns:
      Labels, and scores that are Pearson correlations, the correlation matrix of test rows
      and templates; 0 for a speaker without a training row, which only traced labels can have.

    Raises:
      ValueError: as `identify_speakers`, or there is one feature only.

    Source: Sarkar et al. 2020 (arXiv 2004.07820), after its abstract.
    """
    train, labels, test = _checked(train_features, train_labels, test_features, speakers)
    train, test = _z_scored(train, test)
    templates = class_means(train, membership(labels, speakers, train.dtype))
    score = correlation_matrix(test, templates)
    return Identification(jnp.argmax(score, axis=1), score)


def correlation_matrix(
    a: Float[Array | np.ndarray, "rows_a feature"], b: Float[Array | np.ndarray, "rows_b feature"]
) -> Float[Array, "rows_a rows_b"]:
    """Return Pearson's correlation of every row of `a` with every row of `b`.

    Args:
      a: `[rows_a, feature]`, at least 2 features.
      b: `[rows_b, feature]`.

    Returns:
      `[rows_a, rows_b]` in [-1, 1]; 0 where a row is constant.

    Raises:
      ValueError: the widths differ or are below 2, or an array is empty or not 2-D.
    """
    checks.axes("row feature", a=a, b=b)
    if a.shape[1] < 2:
        raise checks.refused("a", a, "[row, feature], 2 features or more")
    _check_width("b", b, a.shape[1])

    def unit(rows):
        mean, scale, constant = _spread(rows.T)
        standard = jnp.where(constant, 0, (rows.T - mean) / scale).T
        return standard / np.sqrt(rows.shape[1]).astype(rows.dtype)

    return jnp.clip(dot(unit(jnp.asarray(a)), unit(jnp.asarray(b)).T), -1, 1)


def _checked(train_features, train_labels, test_features, speakers):
    """Return the three sets as JAX arrays, or raise for what cannot be identified."""
    features = {"train_features": train_features, "test_features": test_features}
    checks.axes("row feature", **features)
    checks.single_or_double(**features)
    checks.finite(**features)
    rows, width = train_features.shape
    _check_width("test_features", test_features, width)
    checks.labels(rows=rows, classes=speakers, train_labels=train_labels)
    if is_concrete(train_labels):
        missing = np.setdiff1d(np.arange(speakers), train_labels)
        if missing.size:
            accepted = f"a row or more of each of the {speakers} speakers"
            without = f"no row of speaker {missing[0]}"
            raise checks.refused("train_labels", train_labels, accepted, holds=without)
    return jnp.asarray(train_features), jnp.asarray(train_labels), jnp.asarray(test_features)


def _check_width(name: str, rows, width: int) -> None:
    if rows.shape[1] != width:
        raise checks.refused(name, rows, f"[row, {width}], as many features as the others")


def _z_scored(train, test):
    """Return both sets in units of the training spread; 0 where a feature is constant."""
    mean, scale, constant = _spread(train)
    return tuple(jnp.where(constant, 0, (rows - mean) / scale) for rows in (train, test))


def _spread(rows):
    """Return mean, deviation (1 where constant) and constancy of each column, `[1, column]`."""
    # About the first row, a constant column is exactly 0 whatever its size.
    offset = rows - rows[:1]
    shift = jnp.mean(offset, axis=0, keepdims=True)
    variance = jnp.mean((offset - shift) ** 2, axis=0, keepdims=True)
    mean = rows[:1] + shift
    constant = variance <= (4 * jnp.finfo(rows.dtype).eps * mean) ** 2
    return mean, jnp.sqrt(jnp.where(constant, 1, variance)), constant
