"""Backdoors in data sets: attacks, and identification of the poisoned rows without clean data."""

from jaxml.backdoor import attacks as attacks
from jaxml.backdoor import baselines as baselines
from jaxml.backdoor._class_split import class_split as class_split
from jaxml.backdoor._ensemble import ensemble as ensemble
from jaxml.backdoor._evaluate import DetectionRates as DetectionRates
from jaxml.backdoor._evaluate import auroc as auroc
from jaxml.backdoor._evaluate import detection_rates as detection_rates
from jaxml.backdoor._fit_mask import IdentifyConfig as IdentifyConfig
from jaxml.backdoor._identify import Identification as Identification
from jaxml.backdoor._identify import IdentifyState as IdentifyState
from jaxml.backdoor._identify import identification as identification
from jaxml.backdoor._identify import identify as identify
from jaxml.backdoor._identify import identify_round as identify_round
from jaxml.backdoor._identify import identify_start as identify_start
from jaxml.backdoor._mspc import mspc as mspc
from jaxml.backdoor._spc import spc as spc
