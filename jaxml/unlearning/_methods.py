"""What is done to the forget set: an objective by its name, or the caller's own."""

from jaxml.unlearning._forget_batch import Objective
from jaxml.unlearning._objectives import SEQUENCE_OBJECTIVES
from jaxml.unlearning._token_objectives import TOKEN_OBJECTIVES

OBJECTIVES: dict[str, Objective] = SEQUENCE_OBJECTIVES | TOKEN_OBJECTIVES
"""The objectives that methods of `unlearn` are known by, by name."""

METHODS = (*OBJECTIVES, "rmu")
"""Names of methods: the objectives, and "rmu", which steers hidden states and has its own loss."""


def objective_of(method: str | Objective) -> Objective:
    """Return what a method minimises.

    Args:
      method: name in `OBJECTIVES`, or the objective itself.
    """
    return method if isinstance(method, Objective) else OBJECTIVES[method]


def method_name(method: str | Objective) -> str:
    """Return a name of a method by which a run is known: of an objective that of its loss.

    Args:
      method: name in `METHODS`, or an objective.
    """
    if isinstance(method, str):
        return method
    function = getattr(method.loss, "func", method.loss)
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
