"""Backdoor attacks: poisoned copies of a labelled set of images, with their triggers."""

from jaxml.backdoor.attacks._adversarial import perturb as perturb
from jaxml.backdoor.attacks._labels_changed import Rule as Rule
from jaxml.backdoor.attacks._labels_changed import adaptive_blend as adaptive_blend
from jaxml.backdoor.attacks._labels_changed import all_to_all as all_to_all
from jaxml.backdoor.attacks._labels_changed import badnets as badnets
from jaxml.backdoor.attacks._labels_changed import blend as blend
from jaxml.backdoor.attacks._labels_changed import poison as poison
from jaxml.backdoor.attacks._labels_changed import trojan as trojan
from jaxml.backdoor.attacks._labels_changed import wanet as wanet
from jaxml.backdoor.attacks._labels_kept import AdversarialRule as AdversarialRule
from jaxml.backdoor.attacks._labels_kept import clean_label as clean_label
from jaxml.backdoor.attacks._labels_kept import label_consistent as label_consistent
from jaxml.backdoor.attacks._labels_kept import sig as sig
from jaxml.backdoor.attacks._poisoned import Poisoned as Poisoned
from jaxml.backdoor.attacks._poisoned import attack_success_rate as attack_success_rate
from jaxml.backdoor.attacks._triggers import Trigger as Trigger
from jaxml.backdoor.attacks._triggers import blend_trigger as blend_trigger
from jaxml.backdoor.attacks._triggers import checkerboard_trigger as checkerboard_trigger
from jaxml.backdoor.attacks._triggers import noise as noise
from jaxml.backdoor.attacks._triggers import patch_trigger as patch_trigger
from jaxml.backdoor.attacks._triggers import sinusoid_trigger as sinusoid_trigger
from jaxml.backdoor.attacks._triggers import square_trigger as square_trigger
from jaxml.backdoor.attacks._triggers import warp_trigger as warp_trigger
