"""What registration accepts: displacement fields, images, volumes of labels, projections."""

from typing import Literal

from jaxtyping import Array

from jaxml import checks

# A way to fewer folds: through `diffeomorphic_layer`; or to none: by `fold_free`.
Projection = Literal[None, "layer", "fold_free"]


def check_field(**fields: Array) -> None:
    """Accept 2-D and 3-D displacement fields, finite where their values are known."""
    for name, u in fields.items():
        ndim = u.ndim - 1
        if ndim not in (2, 3) or u.shape[-1] != ndim or min(u.shape[:-1]) < 3:
            accepted = "[H, W, 2] or [D, H, W, 3] with 3 voxels or more an axis"
            raise checks.refused(name, u, accepted)
    checks.floating(**fields)
    checks.finite(**fields)


def check_volumes(*, shortest: int = 1, **volumes: Array) -> None:
    """Accept 2-D and 3-D volumes of one shape, `shortest` voxels or more an axis."""
    for name, volume in volumes.items():
        if volume.ndim not in (2, 3) or min(volume.shape) < shortest:
            voxels = "voxel" if shortest == 1 else "voxels"
            accepted = f"[H, W] or [D, H, W] with {shortest} {voxels} or more an axis"
            raise checks.refused(name, volume, accepted)
    checks.same_shape(**volumes)


def check_images(*, shortest: int = 1, **images: Array) -> None:
    """Accept floating-point volumes of one shape and type."""
    check_volumes(shortest=shortest, **images)
    checks.floating(**images)
    checks.same_trees(**images)
