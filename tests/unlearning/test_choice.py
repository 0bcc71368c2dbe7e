"""Multiple choice: the prompt letter by letter, the accuracy and its interval against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxml.unlearning.metrics._choice import (
    binomial_interval,
    choice_prompt,
    multiple_choice_accuracy,
)


def test_prompt_is_that_of_lm_evaluation_harness():
    choices = ["amnion", "chorion", "allantois", "yolk sac"]
    question = "\nThe embryos are encased within a fluid secreted by the "
    found = choice_prompt(question, choices, subject="college_biology")
    assert found == (
        "The following are multiple choice questions (with answers) about college biology.\n\n"
        "The embryos are encased within a fluid secreted by the\n"
        "A. amnion\nB. chorion\nC. allantois\nD. yolk sac\nAnswer:"
    )
    assert choice_prompt("Which?", ["this", "that"]) == "Which?\nA. this\nB. that\nAnswer:"


@pytest.mark.parametrize("choices", [["one"], [str(i) for i in range(27)], "abcd"])
def test_bad_choices_are_named(choices):
    with pytest.raises(ValueError, match="choices=.*accepted is 2 to 26 answers"):
        choice_prompt("Which?", choices)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 2e-5)])
def test_accuracy_and_interval(dtype, atol):
    rng = np.random.default_rng(0)
    logp = rng.normal(size=(40, 4))
    answer = logp.argmax(axis=1)
    answer[8:] = (answer[8:] + 1) % 4
    found = jax.jit(multiple_choice_accuracy)(jnp.asarray(logp, dtype), jnp.asarray(answer))
    interval = stats.binomtest(8, 40).proportion_ci(method="exact")
    assert found.accuracy.dtype == found.low.dtype == dtype
    np.testing.assert_allclose([found.accuracy, found.low, found.high], [0.2, *interval], atol=atol)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_equals_scipy(confidence):
    cases = np.array([(0, 1), (1, 1), (0, 40), (40, 40), (1, 40), (500, 1000), (999, 1000)])
    low, high = jax.jit(jax.vmap(lambda k, n: binomial_interval(k, n, confidence=confidence)))(
        *jnp.asarray(cases.T)
    )
    expected = [
        stats.binomtest(int(k), int(n)).proportion_ci(confidence, method="exact") for k, n in cases
    ]
    np.testing.assert_allclose(np.stack([low, high], 1), expected, atol=1e-10)


def test_first_of_equal_choices_counts_and_half_precision_is_counted_exactly():
    logp = jnp.zeros((3000, 4), jnp.bfloat16)
    answer = jnp.asarray(np.arange(3000) % 3)
    found = multiple_choice_accuracy(logp, answer)
    assert found.accuracy.dtype == "float32"
    np.testing.assert_allclose(found.accuracy, 1 / 3, rtol=1e-6)


def test_bad_input_is_named(unchecked):
    logp, answer = jnp.zeros((5, 4)), jnp.zeros(5, int)
    for arguments, message in (
        ((logp, answer[:3]), r"answer=int64\[3\]: accepted is \[5\], one a question"),
        ((logp[0], answer), r"choice_logp=float64\[4\]: accepted is \[question, choice\]"),
        ((logp, logp[:, 0]), "answer=float64"),
        ((logp > 0, answer), "choice_logp=bool"),
    ):
        with pytest.raises(ValueError, match=message):
            multiple_choice_accuracy(*arguments)
    with pytest.raises(ValueError, match="confidence=95"):
        multiple_choice_accuracy(logp, answer, confidence=95)
    for correct, count in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"correct={correct}: .*count={count}"):
            binomial_interval(correct, count)
