"""Keywords of the forget set: which they are, and losses on them alone or on all but them.

Keywords are found in texts, with strings and numpy; what remains for a model are masks. A word is
letters and digits, with apostrophes inside, in lower case.
"""

from jaxml.unlearning.keywords._extract import Keywords as Keywords
from jaxml.unlearning.keywords._extract import extract as extract
from jaxml.unlearning.keywords._extract import log_odds as log_odds
from jaxml.unlearning.keywords._extract import tf_idf as tf_idf
from jaxml.unlearning.keywords._masks import complement_mask as complement_mask
from jaxml.unlearning.keywords._masks import keyword_mask as keyword_mask
from jaxml.unlearning.keywords._masks import random_mask as random_mask
from jaxml.unlearning.keywords._spans import keyword_texts as keyword_texts
from jaxml.unlearning.keywords._spans import token_hits as token_hits
from jaxml.unlearning.keywords._spans import token_offsets as token_offsets
