"""Pictures of registrations: images, deformed grids, determinants, in a middle slice."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxml.output.plots import new_figure, plain, png
from jaxml.registration import jacobian_determinant


def images(panels: Mapping[str, Float[Array | np.ndarray, "*volume"]]) -> bytes:
    """Return middle slices side by side; a title that begins with a minus is a difference."""
    figure, axes = new_figure(2.8 * len(panels), 3.2, columns=len(panels))
    for axis, (title, volume) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        difference = title.startswith("−")
        limits = {"cmap": "RdBu", "vmin": -1, "vmax": 1} if difference else {"cmap": "gray"}
        axis.imshow(_slice(np.asarray(volume)).T, origin="lower", **limits)
        axis.set(title=plain(title.lstrip("−")), xticks=[], yticks=[])
    return png(figure)


def deformations(fields: Mapping[str, Float[Array | np.ndarray, "*volume ndim"]]) -> bytes:
    """Return for each field the deformed grid above its determinants, folds in red."""
    figure, axes = new_figure(3.4 * len(fields), 7, columns=len(fields), rows=2)
    axes = np.reshape(axes, (2, len(fields)))
    shown = None
    for (above, below), (title, u) in zip(axes.T, fields.items(), strict=True):
        plane = _field_slice(np.asarray(u))
        y, x = np.meshgrid(*(np.arange(n) for n in plane.shape[:2]), indexing="ij")
        y, x = y + plane[..., 0], x + plane[..., 1]
        step = max(1, min(plane.shape[:2]) // 40)
        above.plot(y[::step].T, x[::step].T, color="C0", linewidth=0.5)
        above.plot(y[:, ::step], x[:, ::step], color="C0", linewidth=0.5)
        above.set(title=plain(title), aspect="equal", xticks=[], yticks=[])
        determinant = _slice(np.asarray(jacobian_determinant(jnp.asarray(u))))
        shown = below.imshow(
            np.where(determinant > 0, determinant, np.nan).T,
            origin="lower",
            cmap="viridis",
            vmin=0,
            vmax=2,
        )
        below.set(xticks=[], yticks=[], facecolor="red")
    figure.colorbar(shown, ax=axes.ravel().tolist(), label="determinant (red: not positive)")
    return png(figure)


def _slice(volume):
    """Return the middle plane of the last axis but one, the coronal one of RAS volumes."""
    return volume if volume.ndim == 2 else volume[:, volume.shape[1] // 2]


def _field_slice(u):
    return u if u.ndim == 3 else u[:, u.shape[1] // 2][..., [0, 2]]
