"""The methods' experiments on real data: tables, plots and a report.

What they are called stands here, where it costs no import: the command line shows it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxml.reproduce.run import reproduce as reproduce

# Method name -> module with `experiment(settings, stages, progress) -> Report`.
EXPERIMENTS = {
    "registration": "jaxml.reproduce.registration.experiment",
    "speech": "jaxml.reproduce.speech",
    "backdoor": "jaxml.reproduce.backdoor.experiment",
    "self-training": "jaxml.reproduce.selftraining.experiment",
    "unlearning": "jaxml.reproduce.unlearning.experiment",
    "coreset": "jaxml.reproduce.coreset.experiment",
}
SCALES = ("quick", "standard", "paper")


def __getattr__(name: str):
    """Import `reproduce` on first use (PEP 562)."""
    if name == "reproduce":
        from jaxml.reproduce.run import reproduce

        return reproduce
    raise AttributeError(f"module 'jaxml.reproduce' has no attribute {name!r}")
