"""Random augmentations of images, as pure functions of a key and an image.

One contract for all: `augment(key, image)` takes an image `[height, width, channel]` of
floating-point values in [0, 1] and returns one of the same shape and dtype, in [0, 1] again, so
that augmentations chain in any order. The key is consumed. A batch is
`jax.vmap(augment)(jax.random.split(key, rows), images)`, each row with draws of its own. Only
`mixup` and `cutmix` take a batch, as they mix its rows. A range `(low, high)` is drawn from
uniformly; equal ends fix the value.
"""

from jaxml.augment._color import color_jitter as color_jitter
from jaxml.augment._color import gaussian_blur as gaussian_blur
from jaxml.augment._color import grayscale as grayscale
from jaxml.augment._geometry import affine as affine
from jaxml.augment._geometry import horizontal_flip as horizontal_flip
from jaxml.augment._geometry import padded_crop as padded_crop
from jaxml.augment._geometry import resized_crop as resized_crop
from jaxml.augment._geometry import rotate as rotate
from jaxml.augment._mixing import cutmix as cutmix
from jaxml.augment._mixing import cutout as cutout
from jaxml.augment._mixing import mixup as mixup
from jaxml.augment._policies import Augment as Augment
from jaxml.augment._policies import compose as compose
from jaxml.augment._policies import flip_crop as flip_crop
from jaxml.augment._policies import identity as identity
from jaxml.augment._policies import simclr_view as simclr_view
from jaxml.augment._policies import sometimes as sometimes
from jaxml.augment._rand_augment import rand_augment as rand_augment
