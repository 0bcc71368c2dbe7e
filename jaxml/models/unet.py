"""The U-Net of VoxelMorph: from a pair of images to a displacement in voxels.

Balakrishnan et al., "VoxelMorph: a learning framework for deformable medical image
registration" (TMI 2019), the model vm2.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.files.errors import DataError, unreadable
from jaxml.files.npz import read_npz

# Four halvings: the network sees sides that are multiples of this.
_SIDE = 16
_ENCODER = (16, 32, 32, 32)
_DECODER = (32, 32, 32, 32, 32, 16, 16)
_LAYERS = (
    *(f"encoder_{i}" for i in range(len(_ENCODER))),
    *(f"decoder_{i}" for i in range(len(_DECODER))),
    "flow",
)


class UNet(nn.Module):
    """Displacement `[*volume, ndim]` in voxels from images `fixed` and `moving`, `[*volume]`.

    `UNet().init(key, fixed, moving)` makes parameters, `UNet().apply(parameters, fixed, moving)`
    runs them; batches by `vmap`. Images are `[H, W]` or `[D, H, W]` with intensities of about
    0 to 1, and any sides: they are padded by zeros at the far end to multiples of 16, and the
    result is cut. A new network returns almost no displacement.
    """

    @nn.compact
    def __call__(
        self, fixed: Float[Array, "*volume"], moving: Float[Array, "*volume"]
    ) -> Float[Array, "*volume ndim"]:
        """Return the displacement that moves `moving` onto `fixed`.

        Raises:
          ValueError: the images are not `[H, W]` or `[D, H, W]`, or of different shapes.
        """
        ndim = fixed.ndim
        if ndim not in (2, 3) or 0 in fixed.shape:
            raise checks.refused("fixed", fixed, "[H, W] or [D, H, W], none of length 0")
        checks.same_shape(fixed=fixed, moving=moving)
        x = jnp.stack([moving, fixed], axis=-1)
        x = jnp.pad(x, [(0, -n % _SIDE) for n in fixed.shape] + [(0, 0)])

        skips = []
        for i, channels in enumerate(_ENCODER):
            skips.append(x)
            x = nn.leaky_relu(_Conv(channels, stride=2, name=f"encoder_{i}")(x), 0.2)
        for i, channels in enumerate(_DECODER):
            # The fifth convolution at half the resolution has no skip before it, nor the last.
            if i in (1, 2, 3, 5):
                x = jnp.concatenate([_upsample(x), skips.pop()], axis=-1)
            x = nn.leaky_relu(_Conv(channels, name=f"decoder_{i}")(x), 0.2)
        small = nn.initializers.normal(1e-5)
        flow = _Conv(ndim, kernel_init=small, name="flow")(x)
        return flow[tuple(slice(n) for n in fixed.shape)]


def load_voxelmorph(path: str | Path) -> dict[str, Any]:
    """Return the parameters of a 3-D `UNet` from pretrained weights of the model vm2.

    Args:
      path: npz file with `kernel_00` to `kernel_11`, `[3, 3, 3, in, out]`, and `bias_00` to
        `bias_11`, `[out]`: the layers of the Keras model in order.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: the file is damaged, or an array is missing or of another shape.
    """
    path = Path(path)
    stored = _read(path)
    image = jax.ShapeDtypeStruct((_SIDE,) * 3, jnp.float32)
    shapes = jax.eval_shape(UNet().init, jax.random.key(0), image, image)
    parameters = {}
    for i, name in enumerate(_LAYERS):
        parameters[name] = {}
        for kind, like in shapes["params"][name].items():
            key = f"{kind}_{i:02d}"
            if key not in stored:
                raise DataError(f"{path}: has no {key}; weights of vm2 have 12 layers")
            if stored[key].shape != like.shape:
                raise DataError(f"{path}: {key} is {stored[key].shape}, not {like.shape}")
            if stored[key].dtype.kind not in "fiu":
                raise DataError(f"{path}: {key} is {stored[key].dtype}; accepted are real numbers")
            parameters[name][kind] = jnp.asarray(stored[key], jnp.float32)
    return {"params": parameters}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        accepted = "give weights of vm2"
        raise unreadable(path, error, what="no readable npz file", accepted=accepted) from error


class _Conv(nn.Module):
    """Convolution by a kernel of side 3; zeros outside, (0, 1) a side at stride 2 as in Keras."""

    channels: int
    stride: int = 1
    kernel_init: Any = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        ndim = x.ndim - 1
        shape = (3,) * ndim + (x.shape[-1], self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), x.dtype)
        if ndim == 2:
            y = _convolve(x[None], kernel, self.stride)[0]
        else:
            whole = lambda x, kernel: _convolve(x[None], kernel, self.stride)[0]
            planes = lambda x, kernel: _convolve_planes(x, kernel, self.stride)
            y = lax.platform_dependent(x, kernel, cpu=planes, default=whole)
        return y + bias


def _convolve(x, kernel, stride):
    space = "DHW"[3 - (x.ndim - 2) :]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    strides = (stride,) * len(space)
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers)


def _convolve_planes(x, kernel, stride):
    """The 3-D convolution as a sum of 2-D ones over depth, which XLA runs faster on a CPU."""
    depth = x.shape[0]
    before = 0 if stride == 2 else 1
    x = jnp.pad(x, ((before, 1), (0, 0), (0, 0), (0, 0)))
    taps = (_convolve(x[i : i + depth : stride], kernel[i], stride) for i in range(3))
    return sum(taps)


def _upsample(x):
    for axis in range(x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x
