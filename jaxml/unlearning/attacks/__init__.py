"""Attacks on an unlearned model: whether what it was to forget can still be brought out."""

from jaxml.unlearning.attacks._gcg import Attacked as Attacked
from jaxml.unlearning.attacks._gcg import gcg as gcg
from jaxml.unlearning.attacks._objective import attack_objective as attack_objective
from jaxml.unlearning.attacks._prepend import prepend as prepend
from jaxml.unlearning.attacks._quantize import quantize as quantize
from jaxml.unlearning.attacks._relearn import Relearned as Relearned
from jaxml.unlearning.attacks._relearn import relearn as relearn
