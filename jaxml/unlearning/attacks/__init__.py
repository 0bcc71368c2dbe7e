"""Attacks on an unlearned model: whether what it was to forget can still be brought out."""

from jaxml.unlearning.attacks.gcg import Attacked as Attacked
from jaxml.unlearning.attacks.gcg import gcg as gcg
from jaxml.unlearning.attacks.objective import attack_objective as attack_objective
from jaxml.unlearning.attacks.prefix import prefix as prefix
from jaxml.unlearning.attacks.quantise import quantise as quantise
from jaxml.unlearning.attacks.relearn import Relearned as Relearned
from jaxml.unlearning.attacks.relearn import relearn as relearn
