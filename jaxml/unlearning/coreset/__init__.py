"""Coresets of the forget set: scores of chunks, and the choice of some by a score.

Every method gives one score a chunk; `select` takes the chunks of the highest, lowest or middle
ones.

Source: Pal et al., "LLM unlearning reveals a stronger-than-expected coreset effect in current
benchmarks" (arXiv 2504.10185).
"""

from jaxml.unlearning.coreset._difficulty import el2n as el2n
from jaxml.unlearning.coreset._difficulty import keyword_density as keyword_density
from jaxml.unlearning.coreset._difficulty import loss as loss
from jaxml.unlearning.coreset._difficulty import min_k as min_k
from jaxml.unlearning.coreset._difficulty import perplexity as perplexity
from jaxml.unlearning.coreset._geometry import k_center as k_center
from jaxml.unlearning.coreset._geometry import moderate as moderate
from jaxml.unlearning.coreset._grand import grand as grand
from jaxml.unlearning.coreset._select import random as random
from jaxml.unlearning.coreset._select import select as select
