"""Keywords in texts and among the tokens of a byte-level tokenizer that is trained here."""

import numpy as np
import pytest

from jaxml.data.text import chunk_tokens
from jaxml.unlearning import keywords

TEXT = (
    "Alice drank caf\u00e9 au lait for 3\u20ac; the White Rabbit\u2019s na\u00efve watch "
    "\U0001f430 was late. \u0986\u09ae\u09be\u09b0 \u09b8\u09cb\u09a8\u09be\u09b0 b\u00e4r, "
    "\U0001f469\u200d\U0001f680 Caf\u00e9!"
)


def byte_level_alphabet():
    """Bytes to the characters that stand for them, as GPT-2 has it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = [*printable, *range(256, 256 + len(others))]
    return {chr(code): byte for byte, code in zip(printable + others, codes, strict=True)}


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE of so few merges that characters are cut."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=275,
        show_progress=False,
        special_tokens=["<eos>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([TEXT.replace("\u00e9", "")] * 3, trainer)
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The White Rabbit, the RABBIT's white hat", "White Rabbit RABBIT's white"),
        ("rabbits rabbit-hole whiterabbit", "rabbit"),
        ("A mad tea-party; tea and the party", "mad tea party tea"),
        ("mad; party of the tea party", "tea party"),
        ("nothing here", ""),
        ("", ""),
    ],
)
def test_keyword_texts_by_hand(text, expected):
    words = ("white", "Rabbit", "rabbit's", "tea", "tea-party", "mad  tea")
    assert keywords.keyword_texts([text, "tea"], words) == (expected, "tea")


def test_overlapping_phrases_count_whole():
    found = keywords.keyword_texts(["one two three four"], ["one two", "two three"])
    assert found == ("one two three",)


def test_hits_by_hand():
    text = "a rabbit ran"
    # Before, up to the edge, over it, inside, empty, over the other edge, behind, all, empty.
    spans = [(0, 1), (0, 2), (1, 3), (4, 6), (5, 5), (7, 9), (8, 12), (0, 12), (0, 0)]
    found = keywords.token_hits([text], ["rabbit"], np.array([spans]))
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 0, 1, 0, 1, 0]])
    assert found.dtype == bool


def test_hits_equal_a_comparison_of_every_token_with_every_occurrence():
    rng = np.random.default_rng(0)
    words = rng.choice(["sea", "cat", "\u00e9t\u00e9", "a", "hatter"], (4, 9))
    texts = [" ".join(row) for row in words]
    cuts = np.sort(rng.integers(0, min(map(len, texts)) + 1, (4, 15, 2)), axis=-1)
    found = keywords.token_hits(texts, ["cat", "\u00c9T\u00c9"], cuts)
    for i, row in enumerate(words):
        starts = np.cumsum([0, *(len(word) + 1 for word in row)])[:-1]
        wanted = [
            (s, s + len(w)) for s, w in zip(starts, row, strict=True) if w in "cat \u00e9t\u00e9"
        ]
        wanted = [(s, e) for s, e in wanted if texts[i][s:e] in ("cat", "\u00e9t\u00e9")]
        for hit, (start, end) in zip(found[i], cuts[i], strict=True):
            overlaps = any(start < e and s < end for s, e in wanted)
            assert hit == (overlaps and start < end)


def test_offsets_of_a_text_equal_those_of_the_tokenizer(tokenizer):
    encoded = tokenizer.encode(TEXT)
    texts, found = keywords.token_offsets(tokenizer.decode, np.array([encoded.ids]))
    assert texts == (TEXT,)
    # Characters are cut: tokens share them.
    assert len(encoded.ids) > len(set(encoded.offsets))
    np.testing.assert_array_equal(found[0], encoded.offsets)
    assert found.dtype == "int32"


def test_tokens_of_a_byte_level_tokenizer_are_decoded_a_few_at_a_time(tokenizer):
    ids, decoded = np.array([tokenizer.encode(TEXT * 20).ids]), []

    def decode(row):
        decoded.append(len(row))
        return tokenizer.decode(row)

    keywords.token_offsets(decode, ids)
    assert sorted(decoded)[-2] <= 5 and max(decoded) == ids.size


def hits_of_bytes(raw, words):
    """Which tokens, as bytes, overlap a word as bytes."""
    whole, ends = b"".join(raw), np.cumsum([0, *map(len, raw)])
    hits = np.zeros(len(raw), bool)
    for word in words:
        code = word.encode()
        for start in range(len(whole)):
            if whole[start:].startswith(code):
                hits |= (ends[:-1] < start + len(code)) & (ends[1:] > start)
    return hits


def test_hits_of_chunks_that_cut_characters_and_words(tokenizer):
    ids, of_byte, every = tokenizer.encode(TEXT).ids, byte_level_alphabet(), []
    for length in range(5, 20):
        chunks = chunk_tokens(ids, length)
        texts, offsets = keywords.token_offsets(tokenizer.decode, chunks)
        assert texts == tuple(tokenizer.decode(row) for row in chunks.tolist())
        every.extend(texts)
        words = ("rabbit\u2019s", "CAF\u00c9", "na\u00efve", "b\u00e4r")
        found = keywords.token_hits(texts, words, offsets)
        for row, hits in zip(chunks.tolist(), found, strict=True):
            raw = [bytes(of_byte[c] for c in tokenizer.id_to_token(token)) for token in row]
            as_written = ("Rabbit\u2019s", "caf\u00e9", "Caf\u00e9", "na\u00efve", "b\u00e4r")
            np.testing.assert_array_equal(hits, hits_of_bytes(raw, as_written))
    # Some chunks begin or end within a character.
    assert sum(text[0] == "\ufffd" for text in every) and sum(
        text[-1] == "\ufffd" for text in every
    )


def test_offsets_where_the_text_is_not_the_pieces_in_a_row():
    """As of SentencePiece: the first blank is dropped, and bytes alone are one U+FFFD each."""
    pieces = [
        b" The",
        b" caf",
        b"\xc3",
        b"\xa9",
        b" ",
        b"\xe2",
        b"\x82",
        b"\xac",
        b"s",
        b" end",
        b"",
    ]

    def decode(row):
        raw = b"".join(pieces[token] for token in row)
        text = raw.decode("utf-8", "surrogateescape")
        return "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in text).removeprefix(" ")

    texts, offsets = keywords.token_offsets(decode, np.arange(11)[None])
    assert texts == ("The caf\u00e9 \u20acs end",)
    expected = [
        (0, 3),
        (3, 7),
        (7, 8),
        (7, 8),
        (8, 9),
        *[(9, 10)] * 3,
        (10, 11),
        (11, 15),
        (15, 15),
    ]
    np.testing.assert_array_equal(offsets[0], expected)
    found = keywords.token_hits(texts, ["caf\u00e9"], offsets)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), [1, 2, 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: keywords.keyword_texts([], ["a"]), "texts=\\[\\]: accepted is one string"),
        (lambda s: keywords.keyword_texts("text", ["a"]), "texts='text': accepted is a sequence"),
        (lambda s: keywords.keyword_texts(["a"], []), "words=\\[\\]: accepted is one string"),
        (lambda s: keywords.keyword_texts(["a"], "cat"), "words='cat': accepted is a sequence"),
        (
            lambda s: keywords.keyword_texts(["a"], ["a", "?"]),
            "words='\\?': accepted is words with a letter",
        ),
        (lambda s: keywords.token_hits([], ["a"], s), "texts=\\[\\]: accepted"),
        (lambda s: keywords.token_hits(["a"], [], s), "words=\\[\\]: accepted"),
        (
            lambda s: keywords.token_hits(["a", "b"], ["a"], s),
            r"offsets=int.*\[1, 3, 2\]: .*\[2, t",
        ),
        (lambda s: keywords.token_hits(["a"], ["a"], s[..., 0]), r"offsets=int.*\[1, 3\]: accept"),
        (lambda s: keywords.token_hits(["a"], ["a"], s / 1), r"offsets=float64\[1, 3, 2\]"),
        (
            lambda s: keywords.token_hits(["a"], ["a"], s + 1),
            r"offsets\[0\]=.* from 1 to 2: .* of 1",
        ),
        (lambda s: keywords.token_hits(["a"], ["a"], s - 1), r"offsets\[0\]=.* from -1 to 0"),
        (lambda s: keywords.token_offsets(str, s), r"tokens=int.*\[1, 3, 2\]: accepted is inte"),
        (lambda s: keywords.token_offsets(str, s[0] / 1), r"tokens=float64\[3, 2\]"),
        (lambda s: keywords.token_offsets(str, s[0, :0]), r"tokens=int.*\[0, 2\]"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(np.array([[(0, 0), (0, 1), (1, 1)]]))
