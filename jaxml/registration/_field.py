"""Displacement fields: derivatives, folds, warping, composition, inversion, exponentiation.

A field `u` is given in voxels, `[H, W, 2]` or `[D, H, W, 3]`, the component of axis k last at
index k: voxel p goes to p + u(p). Outside of the volume a field repeats its border.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from jaxml.registration import _tetrahedra as tetrahedra
from jaxml.tracing import known

Difference = Literal["forward", "backward", "central"]
Scheme = Literal["forward", "backward", "central", "digital"]


def jacobian(
    u: Float[Array, "*volume ndim"], *, scheme: Difference = "forward"
) -> Float[Array, "*volume ndim ndim"]:
    """Return the Jacobian of the displacement: row = component, column = axis.

    The Jacobian of the map is this plus the identity.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: "forward" (0 on the last plane of an axis) or "backward" (0 on the first), or
        "central" (one-sided at both ends, as `numpy.gradient`).

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    check_field(u)
    columns = [_difference(u, axis, scheme) for axis in range(u.ndim - 1)]
    return jnp.stack(columns, axis=-1)


def jacobian_determinant(
    u: Float[Array, "*volume ndim"], *, scheme: Difference = "forward"
) -> Float[Array, "*volume"]:
    """Return det(I + Jacobian) of a field at each voxel: its local change of volume.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: as for `jacobian`.

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    check_field(u)
    if scheme == "central":
        return jnp.linalg.det(jacobian(u, scheme=scheme) + jnp.eye(u.shape[-1], dtype=u.dtype))
    grid = tetrahedra.layout(u.shape[:-1], scheme=scheme)
    (plane,) = tetrahedra.determinants(tetrahedra.flatten(components(u), grid), grid)
    return tetrahedra.interior(plane, grid)


def smallest_determinant(u: Float[Array, "*volume ndim"]) -> Float[Array, "*volume"]:
    """Return the smallest determinant over the simplices of each voxel (see `tetrahedra`).

    Where it is positive the field has no fold by the forward, backward, central and digital
    criteria. Volumes are relative: 1 for a field at rest.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Raises:
      ValueError: `u` is no field.
    """
    check_field(u)
    grid = tetrahedra.layout(u.shape[:-1])
    planes = tetrahedra.determinants(tetrahedra.flatten(components(u), grid), grid)
    return tetrahedra.interior(functools.reduce(jnp.minimum, planes), grid)


def count_folds(u: Float[Array, "*volume ndim"], *, scheme: Scheme = "forward") -> Int[Array, ""]:
    """Return the number of voxels where the determinant is not positive.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: differences of the determinant; "digital" counts the voxels where any of the
        corner or central simplices of Liu et al. (IJCV 2024) is not positive.

    Raises:
      ValueError: `u` is no field, or `scheme` is unknown.
    """
    if scheme == "digital":
        determinant = smallest_determinant(u)
    else:
        determinant = jacobian_determinant(u, scheme=scheme)
    return jnp.sum(~(determinant > 0), dtype=jnp.int32)


def warp(
    image: Float[Array, "*image"], u: Float[Array, "*volume ndim"], *, order: int = 1
) -> Float[Array, "*image"]:
    """Return the image sampled at p + u(p); it fades to 0 within a voxel of its border.

    Args:
      image: the volume of `u`, with or without a channel axis at the end.
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      order: 1 for linear, 0 for nearest (labels).

    Raises:
      ValueError: `u` is no field, the image has another volume or is not floating-point, or
        `order` is not 0 or 1.
    """
    check_field(u)
    volume = u.shape[:-1]
    if image.shape[: len(volume)] != volume or image.ndim > u.ndim:
        raise ValueError(
            f"image: shape {image.shape}; accepted are {volume} and {volume} + (channels,)"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image: dtype {image.dtype}; accepted are floating-point numbers")
    if order not in (0, 1):
        raise ValueError(f"order={order}: accepted are 0 (nearest) and 1 (linear)")
    points = _points(u)
    sample = lambda plane: map_coordinates(plane, points, order=order, mode="constant")
    return (
        jax.vmap(sample, in_axes=-1, out_axes=-1)(image) if image.ndim == u.ndim else sample(image)
    )


def compose(
    u: Float[Array, "*volume ndim"], v: Float[Array, "*volume ndim"]
) -> Float[Array, "*volume ndim"]:
    """Return the displacement of the map of `v` followed by the map of `u`: v + u(p + v).

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`, applied last.
      v: displacement of the same shape, applied first.

    Raises:
      ValueError: `u` or `v` is no field, or their shapes differ.
    """
    check_field(u)
    check_field(v, name="v")
    if u.shape != v.shape:
        raise ValueError(f"v: shape {v.shape}; u has {u.shape}")
    return v + _sample(u, v)


def inverse(
    u: Float[Array, "*volume ndim"], *, iterations: int = 30
) -> Float[Array, "*volume ndim"]:
    """Return the displacement v of the inverse map, v(p) = -u(p + v(p)), by fixed point.

    Chen et al., "A simple fixed-point approach to invert a deformation field" (Medical
    Physics, 2008). It converges where the Jacobian of `u` has a norm below 1; check with
    `compose(u, v)`, which is 0 for an exact inverse.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      iterations: number of iterations; the error shrinks by the norm of the Jacobian in each.

    Raises:
      ValueError: `u` is no field, or `iterations` is below 1.
    """
    check_field(u)
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: accepted is 1 or more")
    return _fixed_point(u, iterations)


def exponentiate_velocity(
    v: Float[Array, "*volume ndim"], *, steps: int = 7
) -> Float[Array, "*volume ndim"]:
    """Return the displacement at time 1 of a stationary velocity, by scaling and squaring.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms" (MICCAI
    2006): the field v / 2^steps composed with itself `steps` times.

    Args:
      v: velocity in voxels per unit of time, `[H, W, 2]` or `[D, H, W, 3]`.
      steps: number of squarings; the error halves with each.

    Raises:
      ValueError: `v` is no field, or `steps` is negative.
    """
    check_field(v, name="v")
    if steps < 0:
        raise ValueError(f"steps={steps}: accepted is 0 or more")
    return _squared(v / 2.0**steps, steps)


def components(u: Float[Array, "*volume ndim"]) -> tuple[Float[Array, "*volume"], ...]:
    """Return the components of a field as separate planes."""
    return tuple(u[..., k] for k in range(u.shape[-1]))


def check_field(u: Float[Array, "*volume ndim"], *, name: str = "u") -> None:
    """Raise ValueError unless `u` is a 2-D or 3-D field, finite where its values are known."""
    ndim = u.ndim - 1
    if ndim not in (2, 3) or u.shape[-1] != ndim:
        raise ValueError(f"{name}: shape {u.shape}; accepted are [H, W, 2] and [D, H, W, 3]")
    if min(u.shape[:-1]) < 3:
        raise ValueError(f"{name}: shape {u.shape}; each axis needs 3 voxels or more")
    if not jnp.issubdtype(u.dtype, jnp.floating):
        raise ValueError(f"{name}: dtype {u.dtype}; accepted are floating-point numbers")
    if not is_finite(u):
        raise ValueError(f"{name}: holds NaN or infinity; accepted are finite numbers")


def is_finite(x: Array) -> bool:
    """Return whether all values are finite, True where they are not known."""
    return known(x, lambda x: jnp.all(jnp.isfinite(x)))


# A call outside of jit would compile these loops anew each time.
@functools.partial(jax.jit, static_argnums=1)
def _fixed_point(u: Array, iterations: int) -> Array:
    return jax.lax.scan(lambda v, _: (-_sample(u, v), None), -u, length=iterations)[0]


@functools.partial(jax.jit, static_argnums=1)
def _squared(u: Array, steps: int) -> Array:
    return jax.lax.scan(lambda u, _: (u + _sample(u, u), None), u, length=steps)[0]


def _difference(u: Array, axis: int, scheme: str) -> Array:
    step = jnp.diff(u, axis=axis)
    first, last = (
        jax.lax.slice_in_dim(step, i, i + 1, axis=axis) for i in (0, step.shape[axis] - 1)
    )
    if scheme == "forward":
        return jnp.concatenate([step, jnp.zeros_like(last)], axis)
    if scheme == "backward":
        return jnp.concatenate([jnp.zeros_like(first), step], axis)
    if scheme == "central":
        low, high = (jnp.concatenate(p, axis) for p in ([first, step], [step, last]))
        return (low + high) / 2
    raise ValueError(f"scheme={scheme!r}: accepted are forward, backward, central")


def _points(u: Array) -> list[Array]:
    grids = jnp.meshgrid(*(jnp.arange(n, dtype=u.dtype) for n in u.shape[:-1]), indexing="ij")
    return [g + c for g, c in zip(grids, components(u), strict=True)]


def _sample(u: Array, v: Array) -> Array:
    """u(p + v), the border repeated outside."""
    points = _points(v)
    sample = lambda plane: map_coordinates(plane, points, order=1, mode="nearest")
    return jnp.stack([sample(c) for c in components(u)], axis=-1)
