"""What the studies of language models have in common: sizes, and what one seed works on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxml.data.questions import ChoiceQuestion
from jaxml.data.text import TextCorpus
from jaxml.models import llama
from jaxml.reproduce.language.books import Library, library


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of a run.

    Attributes:
      length: tokens of a chunk.
      prompt: tokens at the start of a chunk that a model is given to go on from.
      forget: chunks to forget; as many others of the book are held out.
      retain: chunks of the other book.
      folds: parts of the forget set, for growing sets and for one request after another.
      epochs: of the training of the target and of the retrained model.
      batch_size: chunks in a step.
      steps: of unlearning the whole forget set.
      seeds: runs of all of it.
      rates: factor of all learning rates; 1 is for decoders trained from nothing.
    """

    length: int
    prompt: int
    forget: int
    retain: int
    folds: int
    epochs: int
    batch_size: int
    steps: int
    seeds: int
    rates: float = 1.0

    @property
    def continuation(self) -> int:
        """Tokens of a chunk behind the prompt."""
        return self.length - 1 - self.prompt


class Setting(NamedTuple):
    """What the stages of one seed share.

    Attributes:
      library: texts and questions.
      decoder: shape of the network.
      scale: size of the run.
      questions: multiple-choice questions, none for a decoder that cannot know.
      subject: what these are about.
    """

    library: Library
    decoder: llama.LlamaConfig
    scale: Scale
    questions: Sequence[ChoiceQuestion] = ()
    subject: str = ""


def small_decoder(
    *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int
) -> llama.LlamaConfig:
    """Return the shape of a decoder that is trained from nothing.

    Args:
      vocab_size: number of tokens.
      hidden_size: width of a hidden state.
      num_layers: number of blocks.
      num_heads: number of heads, a divisor of `hidden_size`.
    """
    return llama.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=5 * hidden_size // 2,
        tie_embeddings=True,
    )


def library_of(scale: Scale, corpus: TextCorpus, tokenizer: Any, seed: int) -> Library:
    """Return the texts and questions of one seed.

    Args:
      scale: size of the run.
      corpus: two books or more.
      tokenizer: of the decoder.
      seed: of the choice of chunks.
    """
    return library(
        corpus,
        tokenizer,
        seed=seed,
        length=scale.length,
        forget=scale.forget,
        retain=scale.retain,
        prompt=scale.prompt,
    )


def steered_layer(decoder: llama.LlamaConfig) -> int:
    """Return the layer of WMDP's settings for RMU, or the middle of a decoder of fewer."""
    return min(7, decoder.num_layers // 2)
