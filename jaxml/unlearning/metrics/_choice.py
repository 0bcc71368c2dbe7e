"""Multiple-choice questions: the prompt, the accuracy and its interval."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxml import checks
from jaxml.tracing import is_concrete, nan_unless


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ChoiceAccuracy:
    """Result of `multiple_choice_accuracy`, each 0 to 1.

    Attributes:
      accuracy: share of the questions answered rightly.
      low: lower end of the interval for the chance of a right answer.
      high: upper end.
    """

    accuracy: Float[Array, "*batch"]
    low: Float[Array, "*batch"]
    high: Float[Array, "*batch"]


def choice_prompt(question: str, choices: Sequence[str], *, subject: str | None = None) -> str:
    """Return the zero-shot prompt of WMDP and MMLU, as lm-evaluation-harness has it.

    The answer of the model is the likeliest of the continuations " A", " B", and so on.

    Args:
      question: what is asked; white space at its ends is left out.
      choices: 2 to 26 answers.
      subject: such as "biology"; underscores become spaces. None leaves out the first line.

    Returns:
      The text up to "Answer:".

    Raises:
      ValueError: the number of choices is not 2 to 26.
    """
    if isinstance(choices, str) or not 2 <= len(choices) <= 26:
        raise checks.refused("choices", choices, "2 to 26 answers")
    title = ""
    if subject is not None:
        about = subject.replace("_", " ")
        title = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    lines = [f"{chr(ord('A') + i)}. {choice}\n" for i, choice in enumerate(choices)]
    return f"{title}{question.strip()}\n{''.join(lines)}Answer:"


def multiple_choice_accuracy(
    choice_logp: Float[Array, "question choice"],
    answer: Integer[Array, " question"],
    *,
    confidence: float = 0.95,
) -> ChoiceAccuracy:
    """Return the share of questions whose likeliest choice is right, with its interval.

    Chance is 1 / choice; where the interval holds it, the model has shown no knowledge.

    Args:
      choice_logp: log-probability, or logit, of each choice, `[question, choice]`; the first of
        equal ones counts.
      answer: index of the right choice, `[question]`.
      confidence: as for `binomial_interval`.

    Returns:
      Accuracy and interval, in float32 or better; NaN if a log-probability is NaN or infinity.

    Raises:
      ValueError: the shapes do not fit, a wrong dtype, an answer that is no choice, or `confidence`
        is not between 0 and 1.
    """
    checks.floating(choice_logp=choice_logp)
    checks.axes("question choice", choice_logp=choice_logp)
    if answer.shape != choice_logp.shape[:1]:
        raise checks.refused("answer", answer, f"[{len(choice_logp)}], one a question")
    checks.integers(answer=answer)
    checks.values_within(0, choice_logp.shape[1] - 1, answer=answer)
    right = jnp.argmax(choice_logp, axis=-1).astype(answer.dtype) == answer
    correct = jnp.sum(right, dtype=jnp.int32)
    dtype = choice_logp.dtype if choice_logp.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    low, high = _clopper_pearson(correct, jnp.asarray(answer.size), confidence, dtype)
    accuracy = ChoiceAccuracy(correct.astype(dtype) / answer.size, low, high)
    # Of choices of which one is not a number none is the likeliest.
    return nan_unless(jnp.all(choice_logp < jnp.inf), accuracy)


def binomial_interval(
    correct: Integer[Array, ""] | int, count: Integer[Array, ""] | int, *, confidence: float = 0.95
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the exact interval for the chance of success, of Clopper and Pearson.

    Args:
      correct: successes, a scalar `[]`.
      count: trials.
      confidence: chance that the interval holds the truth, at least; above 0 and below 1.

    Returns:
      Lower and upper end, in the default float type.

    Raises:
      ValueError: `confidence` is not between 0 and 1, or successes are not 0 to `count`.
    """
    known = is_concrete(correct) and is_concrete(count)
    if known and not (0 <= int(correct) <= int(count) and count > 0):
        raise checks.refused("correct", correct, f"0 to count={count}, and a count above 0")
    dtype = jax.dtypes.canonicalize_dtype(float)
    return _clopper_pearson(jnp.asarray(correct), jnp.asarray(count), confidence, dtype)


def _clopper_pearson(correct: Array, count: Array, confidence: float, dtype) -> tuple[Array, Array]:
    checks.between(0, 1, confidence=confidence)
    k, n = correct.astype(dtype), count.astype(dtype)
    tail = (1 - confidence) / 2
    # P(X >= k) = I_p(k, n - k + 1) rises with p, and P(X > k) = I_p(k + 1, n - k).
    low = _solve(lambda p: jax.scipy.special.betainc(jnp.maximum(k, 1), n - k + 1, p), tail, dtype)
    upper = lambda p: jax.scipy.special.betainc(k + 1, jnp.maximum(n - k, 1), p)
    high = _solve(upper, 1 - tail, dtype)
    return jnp.where(k > 0, low, 0), jnp.where(k < n, high, 1)


def _solve(rising, value: float, dtype) -> Array:
    """Where a function that rises from 0 to 1 on 0 to 1 has the value, by bisection."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = rising(middle) < value
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = jnp.zeros((), dtype), jnp.ones((), dtype)
    low, high = jax.lax.fori_loop(0, jnp.finfo(dtype).nmant + 4, halve, ends)
    return (low + high) / 2
