"""ResNet-18 of any width, with its normalisation of the images as the first layer.

He et al., "Deep residual learning for image recognition" (CVPR 2016).
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.models.normalise import CIFAR10_MEAN, CIFAR10_STD, normalise

# Of the first block of each stage.
_STRIDES = (1, 2, 2, 2)


class ResNet18(nn.Module):
    """Logits and pooled activations of images in [0, 1], channel-last.

    `ResNet18().init(key, images)` makes variables: "params", and "batch_stats" with the
    statistics of each batch normalisation. Layers are flat and numbered as they run:
    `conv_00` to `conv_19`, `norm_00` to `norm_19` (the shortcut's last in its block), `head`;
    so the sorted names of the norms are their order. The input of each norm is sown: with
    `mutable=["intermediates"]`, `apply` also returns it as `input_00` to `input_19`.

    Attributes:
      classes: number of logits.
      width: channels of the first stage; 64 in the paper.
      blocks: of each of the four stages; 1 is ResNet-10, with layers up to 11.
      stem: "cifar", a convolution of side 3, or "imagenet", side 7 and max-pooling, both by 2.
      mean: of each channel, subtracted from the images.
      std: of each channel.
    """

    classes: int = 10
    width: int = 64
    blocks: int = 2
    stem: Literal["cifar", "imagenet"] = "cifar"
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD

    @nn.compact
    def __call__(
        self, images: Float[Array, "row height width channel"], *, train: bool = False
    ) -> tuple[Float[Array, "row classes"], Float[Array, "row features"]]:
        """Return logits `[row, classes]` and pooled activations `[row, 8 width]`.

        Args:
          images: `[row, height, width, channel]`, in [0, 1].
          train: normalise by the statistics of this batch; "batch_stats", if mutable, becomes
            these statistics.

        Raises:
          ValueError: `stem` is unknown, or the images are not `[row, height, width, channel]`
            with a channel for each of `mean` and `std`.
        """
        checks.choice(("cifar", "imagenet"), stem=self.stem)
        x = normalise(images, self.mean, self.std)
        count = 0

        def convolve(x, channels, side, stride):
            """Convolution without bias, padded as in the paper, and its normalisation."""
            nonlocal count
            number, count = f"{count:02d}", count + 1
            x = nn.Conv(
                channels,
                (side, side),
                stride,
                padding=side // 2,
                use_bias=False,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                param_dtype=x.dtype,
                name=f"conv_{number}",
            )(x)
            self.sow("intermediates", f"input_{number}", x)
            # Momentum 0: no mean over steps is kept, see `models.population_statistics`.
            return nn.BatchNorm(
                not train,
                momentum=0.0,
                epsilon=1e-5,
                param_dtype=x.dtype,
                # flax would mix float32 with float64, which strict promotion forbids.
                force_float32_reductions=False,
                name=f"norm_{number}",
            )(x)

        if self.stem == "cifar":
            x = nn.relu(convolve(x, self.width, 3, 1))
        else:
            x = nn.relu(convolve(x, self.width, 7, 2))
            rim: Any = ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), (2, 2), rim)
        for stage, first_stride in enumerate(_STRIDES):
            channels = self.width * 2**stage
            for block in range(self.blocks):
                stride = first_stride if block == 0 else 1
                y = nn.relu(convolve(x, channels, 3, stride))
                y = convolve(y, channels, 3, 1)
                if stride != 1 or x.shape[-1] != channels:
                    x = convolve(x, channels, 1, stride)
                x = nn.relu(x + y)
        pooled = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.classes, param_dtype=x.dtype, name="head")(pooled), pooled
