"""The measures on a decoder that is known to the letter: one that repeats a fixed text."""

import jax.numpy as jnp
import numpy as np
import pytest
from llama_parameters import drawn

from jaxml.data.questions import ChoiceQuestion, Passage, Question
from jaxml.llm import _measures as measures
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import Sequences, metrics

WORDS = tuple("abcdefghijklmnopqrstuvwxyz")
DECODER = LlamaConfig(
    vocab_size=30,
    hidden_size=32,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=32,
    intermediate_size=4,
)


class Letters:
    """A token a letter, in the order of the alphabet, and 26 for all else."""

    bos_token_id = 27
    eos_token_id = 28

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return [WORDS.index(c) if c in WORDS else 26 for c in text.lower().strip()]

    def decode(self, tokens, skip_special_tokens=False):
        assert skip_special_tokens
        return " ".join(WORDS[t] for t in tokens if t < 26)


def alphabet():
    """Parameters of a decoder that says the next letter of the alphabet: no attention, no MLP."""
    params = drawn(DECODER)
    layers = {name: jnp.zeros_like(leaf) for name, leaf in params["layers"].items()}
    embed = np.eye(30, 32, dtype=np.float32)
    head = 20 * np.roll(embed, 1, axis=0).T
    # After the tokens that are no letters nothing is known.
    head[26:] = 0
    return {**params, "layers": layers, "embed": jnp.asarray(embed), "head": jnp.asarray(head)}


PARAMS = alphabet()


def test_verbatim_is_rouge_of_the_greedy_continuation():
    passages = [Passage("abc", "defg"), Passage("m", "nxyo"), Passage("pqr", "stuv")]
    found = measures.verbatim(PARAMS, DECODER, Letters(), passages, tokens=4, batch_size=2)
    # Of "n o p q" against "n x y o", the subsequence "n o" of four words each.
    np.testing.assert_allclose(found, 100 * (1 + 0.5 + 1) / 3)


def test_verbatim_cuts_the_reference():
    found = measures.verbatim(PARAMS, DECODER, Letters(), [Passage("abc", "dexxxxxx")], tokens=2)
    assert found == 100


def test_knowledge_asks_in_the_form_of_muse():
    # The prompt ends with white space, which the tokenizer here leaves out: "r" is followed by "s".
    questions = [Question("what", "s t", "s t", ()), Question("who", "q", "q", ())]
    prompts = []

    class Telling(Letters):
        def encode(self, text, add_special_tokens=True):
            prompts.append(text)
            return super().encode("r", add_special_tokens=False)

    found = measures.knowledge(
        PARAMS, DECODER, Telling(), questions, examples=[("e", "f")], tokens=2
    )
    assert prompts[0] == metrics.knowledge_prompt("what", examples=[("e", "f")])
    np.testing.assert_allclose(found, 50)


def test_choices_are_those_of_the_last_token():
    class Ending(Letters):
        def encode(self, text, add_special_tokens=True):
            if len(text.strip()) == 1:
                return super().encode(text, add_special_tokens=False)
            # The answer of each question is the letter after the one its prompt starts with.
            return [26, WORDS.index(text[0])]

    choices = ("one", "two", "three", "four")
    questions = [
        ChoiceQuestion("a?", choices, 1),
        ChoiceQuestion("b?", choices, 2),
        ChoiceQuestion("c?", choices, 0),
    ]
    found = measures.choices(PARAMS, DECODER, Ending(), questions, batch_size=2)
    np.testing.assert_allclose(found.accuracy, 2 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match=r"questions='\[2, 4\] choices': accepted is one number"):
        measures.choices(
            PARAMS, DECODER, Ending(), [*questions, ChoiceQuestion("a?", choices[:2], 0)]
        )


def test_membership_ranks_what_is_known_higher():
    known = np.arange(8)
    tokens = np.stack([known, known[::-1], known + 3])
    texts = Sequences(jnp.asarray(tokens, jnp.int32), jnp.ones((3, 8), bool))
    found = measures.membership(PARAMS, DECODER, texts, batch_size=2)
    logp = llama.log_prob(PARAMS, texts.tokens, DECODER)
    np.testing.assert_allclose(
        found, [np.sort(row)[: int(0.4 * 7)].mean() for row in np.asarray(logp)], rtol=1e-5
    )
    assert found[0] > found[1] + 1 and found[2] > found[1] + 1


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_and_padding_change_nothing(batch_size):
    passages = [Passage(text, "zz") for text in ("abcdefgh", "m", "tuv")]
    found = measures.continuations(
        PARAMS, DECODER, Letters(), [p.prompt for p in passages], 3, batch_size
    )
    assert found == ["i j k", "n o p", "w x y"]


def test_no_prompt_is_named():
    with pytest.raises(ValueError, match=r"prompts=\[\]: accepted is one prompt"):
        measures.verbatim(PARAMS, DECODER, Letters(), [])
