"""Displacement fields without folds: the Poisson layer, and the projection to fold-free fields."""

from jaxml.registration.diffeomorphic import Reconstruction as Reconstruction
from jaxml.registration.diffeomorphic import diffeomorphic_layer as diffeomorphic_layer
from jaxml.registration.diffeomorphic import poisson_loss as poisson_loss
from jaxml.registration.expm import expm2 as expm2
from jaxml.registration.expm import expm3 as expm3
from jaxml.registration.field import compose as compose
from jaxml.registration.field import count_folds as count_folds
from jaxml.registration.field import exponentiate_velocity as exponentiate_velocity
from jaxml.registration.field import inverse as inverse
from jaxml.registration.field import jacobian as jacobian
from jaxml.registration.field import jacobian_determinant as jacobian_determinant
from jaxml.registration.field import smallest_determinant as smallest_determinant
from jaxml.registration.field import warp as warp
from jaxml.registration.foldfree import FoldFree as FoldFree
from jaxml.registration.foldfree import fold_free as fold_free
from jaxml.registration.poisson import poisson_solve as poisson_solve
