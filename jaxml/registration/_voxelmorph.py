"""Registration by a network: its loss with the diffeomorphic layer at the end, and its use.

The network is any function `flow(params, fixed, moving)` to a displacement in voxels.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from jaxml.registration._diffeomorphic import diffeomorphic_layer, poisson_loss
from jaxml.registration._field import check_field, warp
from jaxml.registration._poisson import Boundary
from jaxml.registration._similarity import check_pair, grad_l2, ncc

Flow = Callable[[Any, Array, Array], Array]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["displacement", "moved"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Prediction:
    """Result of `predict`.

    Attributes:
      displacement: the field, in voxels; the layer's where there is one.
      moved: the moving image warped by it.
    """

    displacement: Float[Array, "*volume ndim"]
    moved: Float[Array, "*volume"]


def predict(
    flow: Flow,
    params: PyTree,
    fixed: Float[Array, "*volume"],
    moving: Float[Array, "*volume"],
    *,
    layer: Boundary | None = None,
) -> Prediction:
    """Return the displacement of a network for a pair of images, and the moved image.

    Args:
      flow: `flow(params, fixed, moving)`, a displacement in voxels `[*volume, ndim]`.
      params: of the network.
      fixed: image `[H, W]` or `[D, H, W]`.
      moving: image of the same shape.
      layer: boundary of the `diffeomorphic_layer` at the end of the network, none if None.

    Raises:
      ValueError: the images are no pair of volumes, `flow` returns another shape than a field
        on them, or `layer` is unknown.
    """
    u = _field(flow, params, fixed, moving)
    if layer is not None:
        u = diffeomorphic_layer(u, boundary=layer).displacement
    return Prediction(u, warp(moving, u))


def voxelmorph_loss(
    flow: Flow,
    params: PyTree,
    fixed: Float[Array, "*volume"],
    moving: Float[Array, "*volume"],
    *,
    similarity: Callable[[Array, Array], Array] = ncc,
    smoothness: float = 2.0,
    poisson: float = 0.1,
    layer: Boundary | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of a registration network on a pair of images, and its terms unweighted.

    similarity + smoothness grad_l2(u) + poisson poisson_loss, the last one with a layer only,
    and u the field after it. The defaults are those of the diffeomorphic layer's paper.
    Balakrishnan et al., "VoxelMorph" (TMI 2019).

    Args:
      flow: `flow(params, fixed, moving)`, a displacement in voxels `[*volume, ndim]`.
      params: of the network.
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1.
      moving: image of the same shape.
      similarity: of the fixed and the moved image, such as `ncc` or `mse`; to be minimised.
      smoothness: weight of the roughness of the field.
      poisson: weight of the misfit of the layer's Jacobian.
      layer: boundary of the `diffeomorphic_layer` at the end of the network, none if None.

    Returns:
      The loss, and a dict of "similarity", "smoothness" and, with a layer, "poisson".

    Raises:
      ValueError: as for `predict`.
    """
    u = _field(flow, params, fixed, moving)
    reconstruction = None if layer is None else diffeomorphic_layer(u, boundary=layer)
    u = u if reconstruction is None else reconstruction.displacement
    terms = {"similarity": similarity(fixed, warp(moving, u)), "smoothness": grad_l2(u)}
    loss = terms["similarity"] + smoothness * terms["smoothness"]
    if reconstruction is not None:
        terms["poisson"] = poisson_loss(reconstruction)
        loss = loss + poisson * terms["poisson"]
    return loss, terms


def _field(flow, params, fixed, moving):
    check_pair(fixed, moving)
    u = flow(params, fixed, moving)
    if u.shape != (*fixed.shape, fixed.ndim):
        raise ValueError(f"flow: returns {u.shape}; accepted is {(*fixed.shape, fixed.ndim)}")
    check_field(u, name="flow")
    return u
