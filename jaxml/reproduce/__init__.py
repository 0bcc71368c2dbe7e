"""The methods' experiments on real data: tables, plots and a report."""

from jaxml.reproduce.run import EXPERIMENTS as EXPERIMENTS
from jaxml.reproduce.run import SCALES as SCALES
from jaxml.reproduce.run import reproduce as reproduce
