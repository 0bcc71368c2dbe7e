"""Five research methods as pure functions over arrays and pytrees, in JAX.

`import jaxml` loads nothing but this file: a method is imported when it is first named.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxml import augment as augment
    from jaxml import backdoor as backdoor
    from jaxml import bilevel as bilevel
    from jaxml import data as data
    from jaxml import llm as llm
    from jaxml import models as models
    from jaxml import multifractal as multifractal
    from jaxml import registration as registration
    from jaxml import selftraining as selftraining
    from jaxml import sharding as sharding
    from jaxml import speech as speech
    from jaxml import training as training
    from jaxml import unlearning as unlearning

__version__ = "0.1.0"
__all__ = [
    "augment",
    "backdoor",
    "bilevel",
    "data",
    "llm",
    "models",
    "multifractal",
    "registration",
    "selftraining",
    "sharding",
    "speech",
    "training",
    "unlearning",
]


def __getattr__(name: str):
    """Import a sub-package on first use (PEP 562)."""
    if name in __all__:
        return importlib.import_module(f"jaxml.{name}")
    raise AttributeError(f"module 'jaxml' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """Return the names of the packages, those not yet imported among them."""
    return [*__all__, "__version__"]
