"""Self-training that unlearns a backdoor: labels from strong augmentations, and SimCLR.

Source: Pal et al., "Towards understanding how self-training tolerates data backdoor poisoning"
(SafeAI at AAAI 2023).
"""

from jaxml.selftraining._choose_augmentation import AugmentationChoice as AugmentationChoice
from jaxml.selftraining._choose_augmentation import choose_augmentation as choose_augmentation
from jaxml.selftraining._pseudo_label import LogitsFn as LogitsFn
from jaxml.selftraining._pseudo_label import PseudoLabels as PseudoLabels
from jaxml.selftraining._pseudo_label import pseudo_label as pseudo_label
from jaxml.selftraining._self_train import SelfTrained as SelfTrained
from jaxml.selftraining._self_train import self_train as self_train
from jaxml.selftraining._simclr import init_projection as init_projection
from jaxml.selftraining._simclr import nt_xent as nt_xent
from jaxml.selftraining._simclr import project as project
from jaxml.selftraining._simclr import simclr_loss as simclr_loss
