"""The vision transformer, of the size "tiny" by default.

Dosovitskiy et al., "An image is worth 16x16 words" (ICLR 2021); Touvron et al., "Training
data-efficient image transformers" (ICML 2021) for the size.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.models.normalise import normalise


class ViT(nn.Module):
    """Logits and the last class token of images in [0, 1], channel-last.

    `ViT().init(key, images)` makes variables, "params", for images of that size.

    Attributes:
      classes: number of logits.
      patch: side of a patch in pixels.
      width: of a token.
      depth: number of blocks.
      heads: of the attention.
      mean: of each channel, subtracted from the images.
      std: of each channel.
    """

    classes: int = 10
    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @nn.compact
    def __call__(
        self, images: Float[Array, "row height width channel"], *, train: bool = False
    ) -> tuple[Float[Array, "row classes"], Float[Array, "row features"]]:
        """Return logits `[row, classes]` and the normalised class token `[row, width]`.

        Args:
          images: `[row, height, width, channel]`, in [0, 1].
          train: without effect; there is neither dropout nor batch normalisation.

        Raises:
          ValueError: the images are not `[row, height, width, channel]` with a channel for
            each of `mean` and `std` and sides that are multiples of `patch`.
        """
        x = normalise(images, self.mean, self.std)
        rows, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise checks.refused("images", x, f"sides that are multiples of patch={self.patch}")
        dtype = x.dtype
        # flax would mix float32 with float64, which strict promotion forbids.
        norm = lambda name: nn.LayerNorm(
            1e-6, param_dtype=dtype, force_float32_reductions=False, name=name
        )
        dense = lambda width, name: nn.Dense(width, param_dtype=dtype, name=name)
        cells = x.reshape(rows, height // self.patch, self.patch, -1, self.patch, channels)
        x = cells.swapaxes(2, 3).reshape(rows, -1, self.patch**2 * channels)
        x = dense(self.width, "embed")(x)
        small = nn.initializers.truncated_normal(0.02)
        token = self.param("token", small, (1, 1, self.width), dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("position", small, (1, *x.shape[1:]), dtype)
        for i in range(self.depth):
            attend = nn.MultiHeadAttention(self.heads, param_dtype=dtype, name=f"attention_{i:02d}")
            y = norm(f"norm_{i:02d}_attention")(x)
            x = x + attend(y, y)
            y = dense(4 * self.width, f"widen_{i:02d}")(norm(f"norm_{i:02d}_mlp")(x))
            x = x + dense(self.width, f"narrow_{i:02d}")(nn.gelu(y, approximate=False))
        token = norm("norm_last")(x)[:, 0]
        return dense(self.classes, "head")(token), token
