"""What an objective is: a loss of a batch of the forget set, and what it needs to know of it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from jaxml import checks
from jaxml.unlearning._counted import row_sums
from jaxml.unlearning._sequences import Sequences

Scalar = float | Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForgetBatch:
    """What a loss may read of a batch of the forget set. What it does not read is not computed.

    Log-probabilities are in nats. Those of texts are sums over the tokens that count.

    Attributes:
      texts: what is to be forgotten, `[row, time]`.
      token_logp: log-probability of every token but the first, `[row, time - 1]`.
      reference_logp: of the texts under the model before, `[row]`; None unless needed.
      alternative: an answer to each text, such as "I don't know"; None unless needed.
      alternative_token_logp: as `token_logp`, of the alternatives.
      alternative_reference_logp: of the alternatives under the model before, `[row]`; None unless
        both are needed.
    """

    texts: Sequences
    token_logp: Float[Array, "row transition"]
    reference_logp: Float[Array, " row"] | None = None
    alternative: Sequences | None = None
    alternative_token_logp: Float[Array, "row alternative"] | None = None
    alternative_reference_logp: Float[Array, " row"] | None = None

    @property
    def counted(self) -> Bool[Array, "row transition"]:
        """Which entries of `token_logp` count, `[row, time - 1]`."""
        return self.texts.mask[:, 1:]

    @property
    def logp(self) -> Float[Array, " row"]:
        """Log-probability of each text, `[row]`."""
        return row_sums(self.token_logp, self.counted)

    @property
    def lengths(self) -> Int[Array, " row"]:
        """Number of terms of each `logp`, `[row]`."""
        return self.texts.lengths

    @property
    def alternative_logp(self) -> Float[Array, " row"]:
        """Log-probability of each alternative, `[row]`."""
        texts, token_logp = self._alternatives()
        return row_sums(token_logp, texts.mask[:, 1:])

    @property
    def alternative_lengths(self) -> Int[Array, " row"]:
        """Number of terms of each `alternative_logp`, `[row]`."""
        return self._alternatives()[0].lengths

    def _alternatives(self) -> tuple[Sequences, Array]:
        if self.alternative is None or self.alternative_token_logp is None:
            accepted = "texts, of an objective that needs frozenset({'alternative'})"
            raise checks.refused("alternative", self.alternative, accepted)
        return self.alternative, self.alternative_token_logp


class Objective(NamedTuple):
    """What is minimised on the forget set; a method of `unlearn`, as those of `OBJECTIVES` are.

    Attributes:
      loss: function of a batch and beta to a scalar. Keep the object, as compiled steps are known
        by it, and let it have a name of its own, by which checkpoints are known.
      needs: of "reference", the log-probabilities under the model before, and "alternative",
        other answers; a batch has nothing of what is not needed.
      beta: of the loss where the configuration has none; None for a loss that takes no notice.
    """

    loss: Callable[[ForgetBatch, Scalar | None], Array]
    needs: frozenset[str] = frozenset()
    beta: float | None = None


NEEDS = frozenset({"reference", "alternative"})
