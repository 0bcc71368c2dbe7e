"""Keywords by hand, against formulas word by word and against scikit-learn."""

import math
import re

import jax
import numpy as np
import pytest

from jaxml.unlearning import keywords

FORGET = (
    "Alice followed the White Rabbit; the rabbit was late.",
    "\u201cCurious!\u201d Alice said. The Rabbit's watch, and the caf\u00e9 of 1865",
    "alice didn\u2019t, DIDN'T know",
)
RETAIN = ("The ship left the harbour, and the captain said: late.", "Of the sea, and Alice")


def plain_words(text):
    """Split by what is neither letter, digit nor apostrophe, then trim apostrophes."""
    pieces = re.split(r"[^a-z0-9\u00e9'\u2019]+", text.lower())
    return [word for piece in pieces if (word := piece.strip("'\u2019"))]


def counts(texts):
    words = [word for text in texts for word in plain_words(text)]
    return {word: words.count(word) for word in words}


def z_score(word, prior):
    f, r = counts(FORGET), counts(RETAIN)
    total_f, total_r = sum(f.values()), sum(r.values())
    f_w, r_w = f.get(word, 0), r.get(word, 0)
    a = prior * (f_w + r_w) / (total_f + total_r)
    d = math.log((f_w + a) / (total_f + prior - f_w - a))
    d -= math.log((r_w + a) / (total_r + prior - r_w - a))
    return d / math.sqrt(1 / (f_w + a) + 1 / (r_w + a))


@pytest.mark.parametrize("prior", [None, 0.3, 10.0])
def test_log_odds_equal_the_formula(prior):
    found = keywords.log_odds(FORGET, RETAIN, **({} if prior is None else {"prior": prior}))
    assert set(found.words) == set(counts(FORGET)) and len(set(found.words)) == len(found.words)
    expected = [z_score(word, prior or 500.0) for word in found.words]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-12)
    assert np.all(np.diff(found.scores) <= 0) and found.scores.dtype == "float64"


def test_log_odds_by_hand():
    """Counts a: 3 and 1, b: 1 and 3; a prior of 8 adds 4 to each, so 7 : 5 against 5 : 7."""
    found = keywords.log_odds(["a a", "A b"], ["a b b b"], prior=8.0)
    assert found.words == ("a", "b")
    z = 2 * math.log(7 / 5) / math.sqrt(1 / 7 + 1 / 5)
    np.testing.assert_allclose(found.scores, [z, -z], rtol=1e-12)


def test_log_odds_find_what_tells_the_sets_apart():
    words = keywords.log_odds(FORGET, RETAIN, prior=1.0).words
    # Three counts of Alice, but one of them to be kept; "and" is to be kept more than forgotten.
    assert words[0] == "rabbit" and words[-1] == "and"


def test_more_prior_prefers_frequent_words():
    forget = ["apple " * 60 + "pear " * 4, "plum " * 100]
    retain = ["apple " * 20, "plum " * 200]
    rank = lambda prior: keywords.log_odds(forget, retain, prior=prior).words.index("pear")
    assert rank(10000.0) == 1


def test_words_are_letters_and_digits_with_apostrophes_inside():
    found = keywords.tf_idf(
        ["'Tis Alice\u2019s 'pool'; x_y 42 \u0395\u03bb\u03bb\u03ac\u03b4\u03b1"], ["sea"]
    )
    expected = {
        "tis",
        "alice\u2019s",
        "pool",
        "x",
        "y",
        "42",
        "\u03b5\u03bb\u03bb\u03ac\u03b4\u03b1",
    }
    assert set(found.words) == expected


def test_tf_idf_equals_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    pattern = r"[^\W_]+(?:['\u2019][^\W_]+)*"
    vectorizer = text.TfidfVectorizer(token_pattern=pattern, norm=None)
    vectorizer.fit(FORGET + RETAIN)
    row = vectorizer.transform([" ".join(FORGET)]).toarray()[0]
    expected = dict(zip(vectorizer.get_feature_names_out(), row, strict=True))
    found = keywords.tf_idf(FORGET, RETAIN)
    assert set(found.words) == {word for word, score in expected.items() if score}
    np.testing.assert_allclose(found.scores, [expected[w] for w in found.words], rtol=1e-12)
    assert np.all(np.diff(found.scores) <= 0)


def test_tf_idf_by_hand_with_ties_in_alphabetical_order():
    """Of 3 chunks a is in 3, b in 1 (twice there), c and d in 1."""
    found = keywords.tf_idf(["a b b", "a d c"], ["a"])
    assert found.words == ("b", "a", "c", "d")
    rare = math.log(4 / 2) + 1
    np.testing.assert_allclose(found.scores, [2 * rare, 2, rare, rare], rtol=1e-12)


@pytest.mark.parametrize("method", ["log_odds", "tf_idf"])
def test_extract_takes_the_first(method):
    scored = getattr(keywords, method)(FORGET, RETAIN)
    assert keywords.extract(FORGET, RETAIN, count=3, method=method) == scored.words[:3]
    assert keywords.extract(FORGET, RETAIN, count=999, method=method) == scored.words


def test_extract_by_a_function_of_a_chunk():
    answers = {
        "one": ["White  Rabbit", "tea", "Tea"],
        "two": ["hat", "white rabbit", "..."],
        "three": ["pig", "hat", "cat"],
    }
    found = keywords.extract(tuple(answers), RETAIN, count=9, method=answers.__getitem__)
    # Two chunks name the rabbit and the hat; the rabbit comes first in the first.
    assert found == ("white rabbit", "hat", "pig", "tea", "cat")
    assert keywords.extract(tuple(answers), RETAIN, count=2, method=answers.get) == found[:2]


def test_result_is_a_pytree():
    found = jax.tree.map(lambda scores: 2 * scores, keywords.tf_idf(["a b b"], ["c"]))
    assert found.words == ("b", "a")
    np.testing.assert_allclose(found.scores, [4 * (math.log(3 / 2) + 1), 2 * (math.log(3 / 2) + 1)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keywords.log_odds([], RETAIN), "forget=\\[\\]: accepted is one string or more"),
        (lambda: keywords.tf_idf(FORGET, []), "retain=\\[\\]: accepted"),
        (lambda: keywords.log_odds("abc", RETAIN), "forget='abc': accepted is a sequence"),
        (
            lambda: keywords.log_odds(FORGET, ["", "..."]),
            r"retain=\['', '...'\]: accepted is texts with one word",
        ),
        (lambda: keywords.log_odds(["a"], ["a a"]), "forget and retain='a': accepted"),
        (lambda: keywords.log_odds(FORGET, RETAIN, prior=0.0), "prior=0.0: accepted is a positive"),
        (
            lambda: keywords.extract(FORGET, RETAIN, count=0),
            "count=0: accepted is a whole number, 1 or more",
        ),
        (lambda: keywords.extract(FORGET, RETAIN, count=1, method="idf"), "method='idf': accepted"),
        (
            lambda: keywords.extract(FORGET, RETAIN, count=1, method=lambda text: []),
            "method=.*no keyword in 3 texts",
        ),
        (
            lambda: keywords.extract([], RETAIN, count=1, method=lambda text: []),
            "forget=\\[\\]: accepted",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
