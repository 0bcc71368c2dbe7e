"""What a word is, and where keywords occur in a text."""

import re
from collections.abc import Sequence

from jaxml import checks

# Letters and digits of any alphabet, with straight or curly apostrophes inside.
WORD = re.compile("[^\\W_]+(?:['\u2019][^\\W_]+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case and in order.

    Args:
      text: any.
    """
    return [match.group().lower() for match in WORD.finditer(text)]


def occurrences(text: str, keywords: Sequence[str]) -> list[re.Match]:
    """Return the words of a text that belong to an occurrence of a keyword, in order.

    A keyword of several words occurs where they follow each other.

    Args:
      text: any.
      keywords: of one or several words each.
    """
    phrases = {tuple(words_of(keyword)) for keyword in keywords}
    lengths = {len(phrase) for phrase in phrases}
    matches, words = list(WORD.finditer(text)), words_of(text)
    places = {
        start + place
        for start in range(len(words))
        for length in lengths
        if (phrase := tuple(words[start : start + length])) in phrases
        for place in range(len(phrase))
    }
    return [matches[place] for place in sorted(places)]


def check_keywords(keywords: Sequence[str]) -> None:
    """Raise ValueError unless there are keywords, and a word in each."""
    check_strings(words=keywords)
    for keyword in keywords:
        if not words_of(keyword):
            raise checks.refused("words", keyword, "words with a letter or digit")


def check_strings(**sets: Sequence[str]) -> None:
    """Raise ValueError unless all are sequences of strings, not one string, and not empty."""
    for name, strings in sets.items():
        if isinstance(strings, str):
            raise checks.refused(name, strings, "a sequence of strings")
        if not len(strings):
            raise checks.refused(name, strings, "one string or more")
