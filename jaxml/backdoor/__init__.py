"""Backdoors in data sets: attacks, and identification of the poisoned rows without clean data."""

from jaxml.backdoor import attacks as attacks
from jaxml.backdoor import baselines as baselines
from jaxml.backdoor.class_split import class_split as class_split
from jaxml.backdoor.ensemble import ensemble as ensemble
from jaxml.backdoor.evaluate import DetectionRates as DetectionRates
from jaxml.backdoor.evaluate import auroc as auroc
from jaxml.backdoor.evaluate import detection_rates as detection_rates
from jaxml.backdoor.fit_mask import IdentifyConfig as IdentifyConfig
from jaxml.backdoor.identify import Identification as Identification
from jaxml.backdoor.identify import IdentifyState as IdentifyState
from jaxml.backdoor.identify import identification as identification
from jaxml.backdoor.identify import identify as identify
from jaxml.backdoor.identify import identify_round as identify_round
from jaxml.backdoor.identify import identify_start as identify_start
from jaxml.backdoor.mspc import mspc as mspc
from jaxml.backdoor.spc import spc as spc
