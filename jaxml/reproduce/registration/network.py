"""A small VoxelMorph with the diffeomorphic layer, trained end to end on one subject."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxml import registration
from jaxml.data.brain import BrainPair
from jaxml.models.unet import UNet
from jaxml.output.stages import Arrays
from jaxml.training import fit

# Means over cubes of so many voxels: a 3-D convolution is slow on a CPU.
SHRINK = 3
PROJECTION = "layer"
# Three times the paper's: a network that sees warps of one subject alone learns these by heart,
# and a rough field then overlaps less on another subject at a higher correlation.
SMOOTHNESS = 6.0


def train_at_small_scale(pair: BrainPair, folder: Path, *, steps: int, seed: int) -> Arrays:
    """Return measures on the pair before and after training on random warps of subject a.

    Each step registers two random warps of subject a with each other; subject b is seen in
    the test only.

    Args:
      pair: two subjects.
      folder: of checkpoints; a run that was ended goes on from there.
      steps: number of training steps.
      seed: of the parameters and of the warps.

    Returns:
      Rows and measures as of a table, the loss of each step and the shape of the volumes.
    """
    a, b = (jnp.asarray(_shrunk(v)) for v in (pair.a, pair.b))
    labels = [v[1::SHRINK, 1::SHRINK, 1::SHRINK] for v in (pair.a_labels, pair.b_labels)]
    a_labels, b_labels = (v[tuple(map(slice, a.shape))] for v in labels)
    key_init, key_fit = jax.random.split(jax.random.key(seed))
    params = jax.jit(UNet().init)(key_init, a, b)

    flow: Any = UNet().apply

    def loss(params, image, key):
        fixed, moving = (_warped(k, image) for k in jax.random.split(key))
        return registration.voxelmorph_loss(
            flow, params, fixed, moving, smoothness=SMOOTHNESS, projection=PROJECTION
        )

    trained = fit(
        key_fit,
        loss,
        params,
        a,
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, steps)),
        steps=steps,
        chunk=min(steps, 50),
        folder=folder,
    )
    predict = jax.jit(functools.partial(registration.predict, flow, projection=PROJECTION))
    fields = {
        "before registration": jnp.zeros((*a.shape, 3), a.dtype),
        "untrained network": predict(params, a, b).displacement,
        "trained network": predict(trained.params, a, b).displacement,
    }
    values = [_measures(a, b, a_labels, b_labels, pair.labels, u) for u in fields.values()]
    return {
        "rows": np.array(list(fields)),
        "measures": np.array(["ncc", "dice", "digital"]),
        "values": np.array(values),
        "loss": trained.history["loss"],
        "shape": np.array(a.shape),
    }


def _measures(fixed, moving, fixed_labels, moving_labels, labels, u):
    moved = registration.warp(jnp.asarray(moving_labels, jnp.float32), u, order=0)
    overlap = registration.dice_per_label(
        jnp.asarray(fixed_labels), moved.astype(jnp.int32), labels
    )
    return (
        -float(registration.ncc(fixed, registration.warp(moving, u))),
        float(jnp.nanmean(overlap)),
        float(registration.count_folds(u, scheme="digital")),
    )


def _warped(key, image):
    """Return an image under a smooth random warp of about a voxel."""
    coarse = jax.random.normal(key, (*(max(4, n // 8) for n in image.shape), image.ndim))
    u = jax.image.resize(coarse, (*image.shape, image.ndim), "cubic")
    return registration.warp(image, u.astype(image.dtype))


def _shrunk(volume):
    cut = volume[tuple(slice(0, n // SHRINK * SHRINK) for n in volume.shape)]
    cubes = [part for n in cut.shape for part in (n // SHRINK, SHRINK)]
    return cut.reshape(cubes).mean(axis=(1, 3, 5))
