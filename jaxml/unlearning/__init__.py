"""Unlearning in language models: objectives on log-probabilities, and the measures of it."""

from jaxml.unlearning import attacks as attacks
from jaxml.unlearning import connectivity as connectivity
from jaxml.unlearning import coreset as coreset
from jaxml.unlearning import keywords as keywords
from jaxml.unlearning import metrics as metrics
from jaxml.unlearning._log_prob import sequence_log_prob as sequence_log_prob
from jaxml.unlearning._log_prob import token_log_prob as token_log_prob
from jaxml.unlearning._objectives import dpo as dpo
from jaxml.unlearning._objectives import grad_diff as grad_diff
from jaxml.unlearning._objectives import gradient_ascent as gradient_ascent
from jaxml.unlearning._objectives import idk_nll as idk_nll
from jaxml.unlearning._objectives import nll as nll
from jaxml.unlearning._objectives import npo as npo
from jaxml.unlearning._objectives import simnpo as simnpo
from jaxml.unlearning._rmu import rmu as rmu
from jaxml.unlearning._rmu import rmu_control as rmu_control
from jaxml.unlearning._sharpness import sam_value_and_grad as sam_value_and_grad
from jaxml.unlearning._task_vector import subtract_task_vector as subtract_task_vector
from jaxml.unlearning._task_vector import task_vector as task_vector
from jaxml.unlearning._token_objectives import kl_retain as kl_retain
from jaxml.unlearning._token_objectives import satimp as satimp
from jaxml.unlearning._token_objectives import wga as wga
from jaxml.unlearning._unlearn import Unlearned as Unlearned
from jaxml.unlearning._unlearn import unlearn as unlearn
from jaxml.unlearning._unlearn_loss import Sequences as Sequences
from jaxml.unlearning._unlearn_loss import UnlearnConfig as UnlearnConfig
