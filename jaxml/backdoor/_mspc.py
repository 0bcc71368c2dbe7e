"""Masked scaled prediction consistency (MSPC) of images under a classifier."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxml import checks
from jaxml.backdoor._amplify import (
    SCALES,
    LogitsFn,
    agreement,
    check_amplification,
    check_images,
)


def mspc(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    mask: Float[Array, "height width"],
    *,
    shift: float = 0.2,
    scales: Sequence[float] = SCALES,
    batch_size: int = 64,
) -> Float[Array, " row"]:
    """Return how steady the prediction of each image is when what the mask leaves is amplified.

    The mean over the scales n of +1 where clip(n (x - shift) mask) has the predicted class of
    x and -1 where it has another. A trigger that the mask leaves in place carries its class
    through all scales, so that a score above 0 tells a backdoor image.

    Compiled once for each shape and `logits_fn` object: keep the function for further calls.
    Arrays that it captures are constants from its first call on, so that after a change of a
    model's parameters it must be a new object. Of a `jax.tree_util.Partial` of one function the
    arrays are arguments, so that one program serves all parameters. Images that are sharded
    along their rows are scored where they are.

    Args:
      logits_fn: pure function of images `[row, height, width, channel]` to logits
        `[row, class]`: the classifier in evaluation mode, normalisation included. It sees
        `batch_size` times the number of scales rows at a time, and needs no gradient: a
        `jax.pure_callback` to the host serves.
      images: `[row, height, width, channel]`, 0 to 1.
      mask: `[height, width]`, 0 to 1, the same for all images and channels.
      shift: subtracted from the images, so that pixels below it are black at every scale.
      scales: factors of the amplification, above 0.
      batch_size: rows worked on at a time, which bounds memory.

    Returns:
      Scores `[row]`, -1 to 1, of the dtype of `images`.

    Raises:
      ValueError: the images or the mask are not numbers from 0 to 1, there are no rows, fewer
        than two classes, logits that are not finite (the first row is named), or another
        argument is out of its range.

    Source: Pal et al., "Backdoor secrets unveiled: identifying backdoor data with optimized
    scaled prediction consistency" (ICLR 2024).
    """
    check_images(logits_fn, images)
    if mask.shape != images.shape[1:3]:
        accepted = f"{list(images.shape[1:3])}, height and width of images"
        raise checks.refused("mask", mask, accepted)
    checks.values_within(0, 1, mask=mask)
    check_amplification(shift, scales, batch_size)
    stays = agreement(logits_fn, images, mask, shift=shift, scales=scales, batch_size=batch_size)
    return 2 * stays - 1
