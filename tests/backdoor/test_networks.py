"""Networks are arguments: those of one shape share the programs of each score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxml import backdoor
from jaxml.backdoor import baselines

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(7, 6, 6, 2)))
WEIGHTS = jnp.asarray(RNG.normal(size=(3, 72, 4)))
LEVELS = jnp.arange(1, 4)
MASK = jnp.asarray(RNG.uniform(size=(6, 6)))
BATCH = dict(batch_size=3)
# Name -> function of a network, of that network amplified, and of numbers that are traced.
SCORES = {
    "spc": lambda f, _: backdoor.spc(f, IMAGES, **BATCH),
    "mspc": lambda f, _, shift=0.2: backdoor.mspc(f, IMAGES, MASK, shift=shift, **BATCH),
    "identify": lambda f, _: (
        backdoor.identify(
            f, IMAGES, config=backdoor.IdentifyConfig(rounds=1, steps=2, score_batch_size=3)
        ).score
    ),
    "strip": lambda f, _, weight=0.5: baselines.strip(
        KEY, f, IMAGES, blends=2, weight=weight, **BATCH
    ),
    "sd_fct": lambda f, _, degrees=180.0: baselines.sd_fct(
        KEY, f, IMAGES, degrees=degrees, **BATCH
    ),
    "ibd_psc": lambda f, amplified: baselines.ibd_psc(f, amplified, IMAGES, LEVELS, **BATCH),
    "ibd_psc_level": lambda _, amplified, error=0.6: baselines.ibd_psc_level(
        amplified, IMAGES, jnp.arange(7) % 4, LEVELS, error=error
    ),
    "cognitive_distillation": lambda f, _, **numbers: baselines.cognitive_distillation(
        KEY, f, IMAGES, steps=2, **numbers, **BATCH
    ),
    "perturb": lambda f, _, **numbers: backdoor.attacks.perturb(
        KEY, f, IMAGES, jnp.arange(7) % 4, iterations=2, **numbers
    ),
}
NUMBERS = {
    "mspc": dict(shift=0.1),
    "strip": dict(weight=0.3),
    "sd_fct": dict(degrees=30.0),
    "ibd_psc_level": dict(error=0.1),
    "cognitive_distillation": dict(learning_rate=0.05, l1=0.1, tv=0.5),
    "perturb": dict(epsilon=0.1, step=0.05),
}


def counted():
    """Return a network, the same one amplified, and the shapes that they were traced for."""
    traces = []

    def network(weights, images):
        traces.append(images.shape)
        return jnp.tanh(images.reshape(len(images), -1) - 0.5) @ weights

    def amplified(weights, level, images):
        return network(weights, images) * level.astype(images.dtype)

    return network, amplified, traces


@pytest.mark.parametrize("name", SCORES)
def test_one_program_serves_three_networks_and_any_numbers(name):
    network, amplified, traces = counted()
    run = lambda weights, **numbers: SCORES[name](
        Partial(network, weights), Partial(amplified, weights), **numbers
    )
    found = [run(WEIGHTS[0])]
    compiled = len(traces)
    assert compiled > 0
    found += [run(weights) for weights in WEIGHTS[1:]]
    run(WEIGHTS[0], **NUMBERS.get(name, {}))
    # spc, mspc, identify and perturb look at two rows for the shape of the logits.
    assert set(traces[compiled:]) <= {IMAGES[:2].shape}
    for weights, score in zip(WEIGHTS, found, strict=True):
        # A function of its own is compiled with these weights as constants.
        own = lambda *args, weights=weights: network(weights, *args)
        own_amplified = lambda *args, weights=weights: amplified(weights, *args)
        np.testing.assert_allclose(SCORES[name](own, own_amplified), score, rtol=1e-9)
    assert name == "ibd_psc_level" or not np.array_equal(found[0], found[1])
