"""Displacement fields: derivatives, folds, warping, composition, inversion, integration.

A field `u` is given in voxels, `[H, W, 2]` or `[D, H, W, 3]`, the component of axis k last at
index k: voxel p goes to p + u(p). Outside of the volume a field repeats its border.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._extent import Size, within
from jaxml.registration._flat import Planes, components, flatten, interior
from jaxml.registration._halo import Split, across, stencil
from jaxml.registration._inputs import check_field
from jaxml.registration._sampling import mapped
from jaxml.registration._tetrahedra import determinants, simplex_grid

Difference = Literal["forward", "backward", "central", "five_point"]
Scheme = Literal["forward", "backward", "central", "five_point", "digital"]


@half_as_single
def jacobian(
    u: Float[Array, "*volume ndim"], *, scheme: Difference = "forward"
) -> Float[Array, "*volume ndim ndim"]:
    """Return the Jacobian of the displacement: row = component, column = axis.

    The Jacobian of the map is this plus the identity.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: "forward" (0 on the last plane of an axis) or "backward" (0 on the first);
        "central" (one-sided at both ends, as `numpy.gradient`); or "five_point", central of
        order 4 with the border repeated, as `CreateJacobianDeterminantImage` of ANTs has it.

    Returns:
      `[*volume, ndim, ndim]`.

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    check_field(u=u)
    checks.choice(get_args(Difference), scheme=scheme)
    columns = [_difference(u, axis, scheme) for axis in range(u.ndim - 1)]
    return jnp.stack(columns, axis=-1)


@half_as_single
def jacobian_determinant(
    u: Float[Array, "*volume ndim"], *, scheme: Difference = "forward"
) -> Float[Array, "*volume"]:
    """Return det(I + Jacobian) of a field at each voxel: its local change of volume.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: as for `jacobian`.

    Returns:
      `[*volume]`: 1 for a field at rest.

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    check_field(u=u)
    checks.choice(get_args(Difference), scheme=scheme)
    if scheme in ("central", "five_point"):
        return jnp.linalg.det(plus_identity(jacobian(u, scheme=scheme)))
    grid = simplex_grid(u.shape[:-1], scheme=scheme)
    (plane,) = determinants(flatten(components(u), grid.layout), grid)
    return interior(plane, grid.layout)


@half_as_single
def min_jacobian_determinant(u: Float[Array, "*volume ndim"]) -> Float[Array, "*volume"]:
    """Return the smallest Jacobian determinant over the simplices of each voxel.

    The simplices are the corners of a voxel and, in 3-D, its two central tetrahedra. Where all
    determinants are positive the field has no fold by the forward, backward, central and digital
    criteria.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Returns:
      `[*volume]`, relative volumes: 1 for a field at rest.

    Raises:
      ValueError: `u` is no field.

    Source: Liu et al., "On finite difference Jacobian computation in deformable image
    registration" (IJCV 2024).
    """
    check_field(u=u)
    return _smallest_determinants(components(u), None)


@half_as_single
def count_folds(u: Float[Array, "*volume ndim"], *, scheme: Scheme = "forward") -> Int[Array, ""]:
    """Return the number of voxels where the determinant is not positive.

    A field without digital folds has neither forward, backward nor central ones. No simplex
    bounds the five-point determinant: of such a field it may be negative at some voxels.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: differences of the determinant; "digital" counts the voxels where
        `min_jacobian_determinant` is not positive.

    Returns:
      Scalar int32.

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    checks.choice(get_args(Scheme), scheme=scheme)
    if scheme == "digital":
        check_field(u=u)
        return count_digital_folds(components(u), None)
    determinant = jacobian_determinant(u, scheme=scheme)
    return jnp.sum(~(determinant > 0), dtype=jnp.int32)


def count_digital_folds(planes: Planes, size: Size, split: Split | None = None) -> Int[Array, ""]:
    """Return the number of digital folds of a field in planes, as `count_folds` has it.

    Args:
      planes: displacement in voxels, one plane a component.
      size: of the volume, where it does not fill the planes.
      split: where the planes are slabs of it.
    """

    def folded(near: Planes, size: Size) -> Array:
        return ~(_smallest_determinants(near, size) > 0) & within(near[0].shape, size)

    return across(jnp.sum(stencil(folded, planes, 1, size, split), dtype=jnp.int32), split)


def _smallest_determinants(planes: Planes, size: Size) -> Array:
    grid = simplex_grid(planes[0].shape)

    def smaller(a, b):
        # Where one simplex has no determinant the voxel has none.
        return jnp.where(jnp.isfinite(a) & jnp.isfinite(b), jnp.minimum(a, b), jnp.nan)

    every = determinants(flatten(planes, grid.layout, size), grid)
    return interior(functools.reduce(smaller, every), grid.layout)


@half_as_single
def warp(
    image: Float[Array, "*image"],
    u: Float[Array, "*volume ndim"],
    *,
    affine: Float[Array, "ndim row"] | None = None,
    order: int = 1,
) -> Float[Array, "*moved"]:
    """Return the image sampled at affine (p + u(p)); it fades to 0 within a voxel of its border.

    Args:
      image: the volume of `u`, or with `affine` any other of as many axes; with or without a
        channel axis at the end.
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      affine: `[ndim, ndim + 1]`, voxels of `u` to voxels of the image, such as that of a
        `Registration`; None for the identity.
      order: 1 for linear, 0 for nearest (labels).

    Returns:
      `[*volume]`, with the channels and the dtype of `image`.

    Raises:
      ValueError: `u` is no field, the image has another volume or is not floating-point,
        `affine` has another shape, or `order` is not 0 or 1.
    """
    check_field(u=u)
    volume, ndim = u.shape[:-1], u.ndim - 1
    if affine is not None and affine.shape != (ndim, ndim + 1):
        raise checks.refused("affine", affine, f"[{ndim}, {ndim + 1}]")
    if affine is None and image.shape[:ndim] != volume or image.ndim not in (ndim, u.ndim):
        accepted = f"{list(volume)}, the volume of u, with or without channels at the end"
        raise checks.refused("image", image, accepted)
    checks.floating(image=image)
    checks.choice((0, 1), order=order)
    if affine is not None:
        u = jnp.stack(mapped(components(u), affine.astype(u.dtype)), axis=-1)
    points = _points(u)
    sample = lambda plane: map_coordinates(plane, points, order=order, mode="constant")
    return (
        jax.vmap(sample, in_axes=-1, out_axes=-1)(image) if image.ndim == u.ndim else sample(image)
    )


@half_as_single
def compose(
    u: Float[Array, "*volume ndim"], v: Float[Array, "*volume ndim"]
) -> Float[Array, "*volume ndim"]:
    """Return the displacement of the map of `v` followed by the map of `u`: v + u(p + v).

    Two fields without folds may compose to one with folds: `u` is read between its voxels, and
    what it does there is not seen from those of the result. `fold_free` mends that.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`, applied last.
      v: displacement of the same shape, applied first.

    Returns:
      Displacement of the same shape.

    Raises:
      ValueError: `u` or `v` is no field, or their shapes differ.
    """
    check_field(u=u, v=v)
    checks.same_shape(u=u, v=v)
    return v + sample_field(u, v)


def integrate_velocity(
    v: Float[Array, "*volume ndim"], *, steps: int = 7
) -> Float[Array, "*volume ndim"]:
    """Return the displacement at time 1 of a stationary velocity, by scaling and squaring.

    It is the field v / 2^steps composed with itself `steps` times.

    Args:
      v: velocity in voxels per unit of time, `[H, W, 2]` or `[D, H, W, 3]`.
      steps: number of squarings; the error halves with each.

    Returns:
      Displacement of the same shape, in voxels.

    Raises:
      ValueError: `v` is no field, or `steps` is negative.

    Source: Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms" (MICCAI
    2006).
    """
    check_field(v=v)
    checks.single_or_double(v=v)
    checks.counts(least=0, steps=steps)
    return _squared(v / 2.0**steps, steps)


def plus_identity(matrices: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """Return matrices with the identity added to each."""
    identity = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    return matrices + jnp.expand_dims(identity, range(matrices.ndim - 2))


# A call outside of jit would compile the loop anew each time.
@functools.partial(jax.jit, static_argnums=1)
def _squared(u: Array, steps: int) -> Array:
    return jax.lax.scan(lambda u, _: (u + sample_field(u, u), None), u, length=steps)[0]


def _difference(u: Array, axis: int, scheme: str) -> Array:
    if scheme == "five_point":
        padded = jnp.pad(u, [(2 * (a == axis),) * 2 for a in range(u.ndim)], mode="edge")
        far_back, back, _, on, far_on = (
            jax.lax.slice_in_dim(padded, i, i + u.shape[axis], axis=axis) for i in range(5)
        )
        return (8 * (on - back) - (far_on - far_back)) / 12
    step = jnp.diff(u, axis=axis)
    first, last = (
        jax.lax.slice_in_dim(step, i, i + 1, axis=axis) for i in (0, step.shape[axis] - 1)
    )
    if scheme == "forward":
        return jnp.concatenate([step, jnp.zeros_like(last)], axis)
    if scheme == "backward":
        return jnp.concatenate([jnp.zeros_like(first), step], axis)
    low, high = (jnp.concatenate(p, axis) for p in ([first, step], [step, last]))
    return (low + high) / 2


def _points(u: Array) -> list[Array]:
    grids = jnp.meshgrid(*(jnp.arange(n, dtype=u.dtype) for n in u.shape[:-1]), indexing="ij")
    return [g + c for g, c in zip(grids, components(u), strict=True)]


def sample_field(u: Array, v: Array) -> Array:
    """u(p + v), the border repeated outside."""
    points = _points(v)
    sample = lambda plane: map_coordinates(plane, points, order=1, mode="nearest")
    return jnp.stack([sample(c) for c in components(u)], axis=-1)
