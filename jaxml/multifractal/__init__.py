"""Multifractal analysis of series: MFDFA and its relatives, surrogates, synthetic series."""

from jaxml.multifractal.mfdfa import default_scales as default_scales
from jaxml.multifractal.mfdfa import fluctuation as fluctuation
from jaxml.multifractal.mfdfa import hurst as hurst
from jaxml.multifractal.mfdfa import mfdfa as mfdfa
from jaxml.multifractal.scaling import MFDFA as MFDFA
