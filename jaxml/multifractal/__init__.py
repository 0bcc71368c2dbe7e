"""Multifractal analysis of series: MFDFA and its relatives, surrogates, synthetic series."""

from jaxml.multifractal import surrogates as surrogates
from jaxml.multifractal import synthetic as synthetic
from jaxml.multifractal.cumulants import Cumulants as Cumulants
from jaxml.multifractal.cumulants import cumulants as cumulants
from jaxml.multifractal.mfdcca import MFDCCA as MFDCCA
from jaxml.multifractal.mfdcca import mfdcca as mfdcca
from jaxml.multifractal.mfdfa import default_scales as default_scales
from jaxml.multifractal.mfdfa import fluctuation as fluctuation
from jaxml.multifractal.mfdfa import hurst as hurst
from jaxml.multifractal.mfdfa import mfdfa as mfdfa
from jaxml.multifractal.mfdma import mfdma as mfdma
from jaxml.multifractal.scaling import MFDFA as MFDFA
from jaxml.multifractal.spectrum import QuadraticSpectrum as QuadraticSpectrum
from jaxml.multifractal.spectrum import quadratic_spectrum as quadratic_spectrum
