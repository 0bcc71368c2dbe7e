"""Registration by a network: its loss with the diffeomorphic layer at the end, and its use.

The network is any function `flow(params, fixed, moving)` to a displacement in voxels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax
from jaxtyping import Array, Float, PyTree

from jaxml import checks
from jaxml.registration._diffeomorphic import (
    Reconstruction,
    diffeomorphic_layer,
    layer_residual,
)
from jaxml.registration._field import warp
from jaxml.registration._foldfree import fold_free
from jaxml.registration._inputs import Projection, check_field, check_images
from jaxml.registration._poisson import Boundary
from jaxml.registration._similarity import grad_l2, ncc

Flow = Callable[[Any, Array, Array], Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prediction:
    """Result of `predict`.

    Attributes:
      displacement: the field, in voxels, after the projection.
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
    projection: Projection = None,
    boundary: Boundary = "dirichlet",
) -> Prediction:
    """Return the displacement of a network for a pair of images, and the moved image.

    Args:
      flow: `flow(params, fixed, moving)`, a displacement in voxels `[*volume, ndim]`.
      params: of the network.
      fixed: image `[H, W]` or `[D, H, W]`.
      moving: image of the same shape.
      projection: what stands at the end of the network, as for `register`: None; "layer", the
        `diffeomorphic_layer`; or "fold_free".
      boundary: of the layer.

    Returns:
      `Prediction`.

    Raises:
      ValueError: the images are no pair of volumes, `flow` returns another shape than a field
        on them, or `projection` or `boundary` is unknown.
    """
    u, _ = _projected(flow, params, fixed, moving, projection, boundary)
    return Prediction(u, warp(moving, u))


def voxelmorph_loss(
    flow: Flow,
    params: PyTree,
    fixed: Float[Array, "*volume"],
    moving: Float[Array, "*volume"],
    *,
    similarity: Callable[[Array, Array], Array] = ncc,
    smoothness: float = 2.0,
    poisson_weight: float = 0.1,
    projection: Projection = None,
    boundary: Boundary = "dirichlet",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of a registration network on a pair of images, and its terms unweighted.

    similarity + smoothness grad_l2(u) + poisson_weight layer_residual, the last one with the
    layer only, and u the field after the projection. The defaults are those of the diffeomorphic
    layer's paper.

    Args:
      flow: `flow(params, fixed, moving)`, a displacement in voxels `[*volume, ndim]`.
      params: of the network.
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1.
      moving: image of the same shape.
      similarity: of the fixed and the moved image, such as `ncc` or `mse`; to be minimized.
      smoothness: weight of the roughness of the field.
      poisson_weight: weight of `layer_residual`; of use with the layer only.
      projection: as for `predict`.
      boundary: of the layer.

    Returns:
      The loss, and a dict of "similarity", "smoothness" and, with the layer, "layer_residual".

    Raises:
      ValueError: as for `predict`.

    Source: Balakrishnan et al., "VoxelMorph" (TMI 2019).
    """
    u, layer = _projected(flow, params, fixed, moving, projection, boundary)
    terms = {"similarity": similarity(fixed, warp(moving, u)), "smoothness": grad_l2(u)}
    loss = terms["similarity"] + smoothness * terms["smoothness"]
    if layer is not None:
        terms["layer_residual"] = layer_residual(layer)
        loss = loss + poisson_weight * terms["layer_residual"]
    return loss, terms


def _projected(
    flow, params, fixed, moving, projection, boundary
) -> tuple[Array, Reconstruction | None]:
    """Return the network's field after the projection, and the result of the layer."""
    check_images(fixed=fixed, moving=moving)
    checks.choice(get_args(Projection), projection=projection)
    u = flow(params, fixed, moving)
    shape = (*fixed.shape, fixed.ndim)
    if u.shape != shape:
        accepted = f"{list(shape)}, a displacement of each voxel"
        raise checks.refused("flow(params, fixed, moving)", u, accepted)
    check_field(flow=u)
    if projection == "fold_free":
        return fold_free(u).displacement, None
    if projection == "layer":
        layer = diffeomorphic_layer(u, boundary=boundary)
        return layer.displacement, layer
    return u, None
