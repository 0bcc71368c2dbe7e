"""Backdoors in data sets: attacks, and identification of the poisoned rows without clean data."""

from jaxml.backdoor import attacks as attacks
from jaxml.backdoor import baselines as baselines
from jaxml.backdoor._class_split import class_split as class_split
from jaxml.backdoor._combine_scores import combine_scores as combine_scores
from jaxml.backdoor._evaluate import DetectionRates as DetectionRates
from jaxml.backdoor._evaluate import auroc as auroc
from jaxml.backdoor._evaluate import detection_rates as detection_rates
from jaxml.backdoor._identify import Identification as Identification
from jaxml.backdoor._identify import IdentifyState as IdentifyState
from jaxml.backdoor._identify import identify as identify
from jaxml.backdoor._identify import identify_init as identify_init
from jaxml.backdoor._identify import identify_result as identify_result
from jaxml.backdoor._identify import identify_step as identify_step
from jaxml.backdoor._identify_config import IdentifyConfig as IdentifyConfig
from jaxml.backdoor._mspc import mspc as mspc
from jaxml.backdoor._spc import spc as spc
