"""Multifractal analysis of series: MFDFA and its relatives, surrogates, synthetic series."""

from jaxml.multifractal import surrogates as surrogates
from jaxml.multifractal import synthetic as synthetic
from jaxml.multifractal._cumulants import Cumulants as Cumulants
from jaxml.multifractal._cumulants import cumulants as cumulants
from jaxml.multifractal._mfdcca import MFDCCA as MFDCCA
from jaxml.multifractal._mfdcca import mfdcca as mfdcca
from jaxml.multifractal._mfdfa import default_scales as default_scales
from jaxml.multifractal._mfdfa import fluctuation as fluctuation
from jaxml.multifractal._mfdfa import hurst as hurst
from jaxml.multifractal._mfdfa import mfdfa as mfdfa
from jaxml.multifractal._mfdma import mfdma as mfdma
from jaxml.multifractal._scaling import MFDFA as MFDFA
from jaxml.multifractal._spectrum import QuadraticSpectrum as QuadraticSpectrum
from jaxml.multifractal._spectrum import quadratic_spectrum as quadratic_spectrum
