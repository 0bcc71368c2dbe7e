"""The one training loop that all experiments use: optax steps, orbax checkpoints, exact resume."""

from jaxml.training.batches import batch_indices as batch_indices
from jaxml.training.loop import Loss as Loss
from jaxml.training.loop import Trained as Trained
from jaxml.training.loop import fit as fit
from jaxml.training.progress import Progress as Progress
from jaxml.training.progress import progress_bar as progress_bar
