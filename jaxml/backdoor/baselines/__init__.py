"""Published scores of suspicion, one a row of a poisoned set: higher is more suspicious in all."""

from jaxml.backdoor.baselines._abl import abl as abl
from jaxml.backdoor.baselines._abl import abl_loss as abl_loss
from jaxml.backdoor.baselines._activation_clustering import (
    activation_clustering as activation_clustering,
)
from jaxml.backdoor.baselines._cognitive_distillation import (
    cognitive_distillation as cognitive_distillation,
)
from jaxml.backdoor.baselines._flare import activation_likelihood as activation_likelihood
from jaxml.backdoor.baselines._flare import flare as flare
from jaxml.backdoor.baselines._ibd_psc import ibd_psc as ibd_psc
from jaxml.backdoor.baselines._ibd_psc import ibd_psc_level as ibd_psc_level
from jaxml.backdoor.baselines._sd_fct import sd_fct as sd_fct
from jaxml.backdoor.baselines._spectral_signature import spectral_signature as spectral_signature
from jaxml.backdoor.baselines._strip import strip as strip
