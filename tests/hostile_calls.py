"""Small calls of the public functions of other things than arrays: networks, trees, whole loops.

Of each a function of arrays alone, and its arrays with a batch of 2 in front, as for `CALLS` of
`test_api.py`. `ON_HOST` are those that loop, decide or write outside of JAX: neither traced nor
mapped. `WITHOUT_FLOATS` have none, neither in arrays nor in what they call.
"""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.tree_util import Partial
from llama_parameters import drawn
from test_api import LOADERS

from jaxml import (
    augment,
    backdoor,
    bilevel,
    data,
    llm,
    models,
    registration,
    selftraining,
    sharding,
    speech,
    training,
    unlearning,
)
from jaxml.data.questions import ChoiceQuestion, Passage
from jaxml.models import llama

ON_HOST = {
    "backdoor.identify",
    "backdoor.identify_init",
    "backdoor.identify_result",
    "backdoor.identify_step",
    "data.map_points",
    "llm.evaluate",
    "llm.save",
    "llm.score",
    "llm.unlearn",
    "models.llama.save",
    "sharding.from_processes",
    "sharding.map_rows",
    "sharding.pmap",
    "sharding.to_numpy",
    "speech.trim_silence",
    "training.fit",
}

WITHOUT_FLOATS = {
    *LOADERS,
    "backdoor.attacks.noise",
    "backdoor.attacks.warp_trigger",
    "backdoor.detection_rates",
    "llm.load",
    "llm.tokenize",
    "models.llama.decoder_mesh",
    "models.llama.init",
    "models.llama.load",
    "models.llama.load_tokenizer",
    "models.llama.parameter_shardings",
    "models.load_voxelmorph",
    "multifractal.default_scales",
    "multifractal.synthetic.cascade",
    "multifractal.synthetic.fbm",
    "multifractal.synthetic.fgn",
    "multifractal.synthetic.levy_stable",
    "registration.dice_per_label",
    "registration.hausdorff95",
    "selftraining.init_projection",
    "sharding.data_mesh",
    "training.batch_indices",
    "training.progress_bar",
    "unlearning.attacks.prepend",
    "unlearning.coreset.keyword_density",
    "unlearning.coreset.random",
    "unlearning.keywords.complement_mask",
    "unlearning.keywords.extract",
    "unlearning.keywords.keyword_mask",
    "unlearning.keywords.keyword_texts",
    "unlearning.keywords.log_odds",
    "unlearning.keywords.random_mask",
    "unlearning.keywords.tf_idf",
    "unlearning.keywords.token_hits",
    "unlearning.keywords.token_offsets",
    "unlearning.metrics.binomial_interval",
    "unlearning.metrics.choice_prompt",
    "unlearning.metrics.cut_answer",
    "unlearning.metrics.exact_memorization",
    "unlearning.metrics.extraction_strength",
    "unlearning.metrics.knowledge_memorization",
    "unlearning.metrics.knowledge_prompt",
    "unlearning.metrics.rouge_l",
    "unlearning.metrics.verbatim_memorization",
    "unlearning.metrics.zlib_size",
    "unlearning.rmu_control",
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def key():
    return jax.random.key(0)


# Images and what a network of one matrix makes of them.
SIDES = (6, 6, 1)
IMAGES = np.random.default_rng(0).uniform(0.1, 0.9, size=(2, 6, *SIDES)).astype("float32")
KEYS = jax.random.split(jax.random.key(1), 2)
WEIGHTS = noise(2, 36, 3)
LABELS = np.stack([np.arange(6) % 3, np.arange(6)[::-1] % 3]).astype("int32")


def logits(weight, images):
    return images.reshape(len(images), -1) @ weight


def network(weight):
    return Partial(logits, weight)


def with_trigger(make):
    """Return a function of arrays of a trigger, and of images that get it."""
    return lambda *arrays: make(*arrays[:-1])(arrays[-1])


def amplified(weight, level, images):
    return logits(weight, images) * (1 + level.astype(images.dtype))


IDENTIFY = backdoor.IdentifyConfig(scales=(2, 3), rounds=1, steps=2, batch_size=4)


def identify_step(weight, images, mask):
    state = backdoor.identify_init(network(weight), images, config=IDENTIFY)
    state = dataclasses.replace(state, mask=mask)
    return backdoor.identify_step(network(weight), images, state, config=IDENTIFY)


def identify_result(weight, images):
    return backdoor.identify_result(
        backdoor.identify_init(network(weight), images, config=IDENTIFY)
    )


# A tiny decoder with one leaf of its parameters given, all of one precision.
DECODER = llama.LlamaConfig(
    vocab_size=30,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=8,
)
PARAMS = drawn(DECODER, matrices=10.0)
TOKENS = jnp.asarray(np.arange(10).reshape(2, 5) * 7 % 30, jnp.int32)
TEXTS = unlearning.Sequences(TOKENS, jnp.ones(TOKENS.shape, bool))
DOWN = np.stack([PARAMS["layers"]["down"]] * 2)
HEADS = np.stack([PARAMS["head"]] * 2)
EMBEDDINGS = np.stack([PARAMS["embed"]] * 2)
HIDDEN = noise(2, 2, 5, 8)


class Letters:
    """A token a letter of the alphabet, and 26 for all else."""

    eos_token_id = 28

    def encode(self, text, add_special_tokens=True):
        return [min(ord(c) - ord("a"), 26) if c.islower() else 26 for c in text.lower().strip()]

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(chr(ord("a") + token) if token < 26 else " " for token in tokens)


LETTERS = Letters()


def decoder_params(down=None, head=None):
    """Return the parameters with one matrix for their own, all in its precision."""
    dtype = (head if down is None else down).dtype
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    if head is not None:
        params["head"] = head
    if down is not None:
        params["layers"] = {**params["layers"], "down": down}
    return params


def model(down):
    return llm.Model(decoder_params(down), DECODER, LETTERS)


def evaluate(down):
    found = llm.evaluate(
        model(down),
        verbatim=[Passage("abc", "def")],
        choices=[ChoiceQuestion("abc", ("d", "e"), 0)],
        texts=TEXTS,
    )
    # What is written need not change with the parameters.
    return found.choices, found.perplexity, found.min_k


def score(down):
    names = ("loss", "perplexity", "min_k", "el2n", "grand", "k_center")
    return {name: llm.score(key(), name, model(down), TEXTS) for name in names}


UNLEARN = unlearning.UnlearnConfig(method="ga", retain="none", steps=1)


def unlearn_model(down):
    after = llm.unlearn(key(), model(down), TEXTS, TEXTS, config=UNLEARN)
    return after.model.params, after.history


def saved(write):
    """Return a function of a leaf to the parameters that are read again after writing."""

    def save(down):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, down)
            return llama.load(folder).params

    return save


class Classifier(nn.Module):
    """A linear layer and its normalisation."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(3, name="first", param_dtype=images.dtype)(images.reshape(len(images), -1))
        settings = dict(param_dtype=x.dtype, force_float32_reductions=False)
        return nn.BatchNorm(not train, momentum=0.0, name="norm", **settings)(x), x


def classifier_params(kernel):
    zeros, ones = jnp.zeros(3, kernel.dtype), jnp.ones(3, kernel.dtype)
    return {"first": {"kernel": kernel, "bias": zeros}, "norm": {"scale": ones, "bias": zeros}}


def flow(params, fixed, moving):
    return params * jnp.stack([fixed - moving, moving], axis=-1)


def implicit_gradient(x, cotangent):
    inner = lambda y, x: jnp.sum((y - x) ** 2 * (1 + x**2))
    solution = bilevel.implicit_gradient(inner, lambda x: x)
    return jax.grad(lambda x: jnp.vdot(cotangent, solution(x)))(x)


def train(key, images, targets, weights):
    return network(images.reshape(len(images), -1).T @ (targets * weights[:, None]))


def self_train(weight, images, labels, pool):
    relabel = functools.partial(selftraining.pseudo_label, augment=augment.identity, views=1)
    return selftraining.self_train(
        key(), train, relabel, images, labels, pool, classes=3, teacher=network(weight)
    ).labels


def choose_augmentation(key, weight, images, labels):
    augments = (augment.horizontal_flip,)
    return selftraining.choose_augmentation(
        key, network(weight), augments, images, labels, classes=3, views=1
    )


def embed_views(weight, images):
    return logits(weight, images)


def least_squares(params, data, key):
    return jnp.mean((data - params) ** 2), {}


SGD = optax.sgd(0.1)


def fitted(params, data):
    found = training.fit(key(), least_squares, params, data, optimizer=SGD, steps=2)
    return found.params, found.history


def next_logits(table, tokens):
    return table[tokens]


TABLES = noise(2, 30, 30)


def unlearn(key, table):
    return unlearning.unlearn(key, next_logits, table, TEXTS, TEXTS, config=UNLEARN)


def relearn(key, table):
    return unlearning.attacks.relearn(key, next_logits, table, TEXTS, steps=1, batch_size=1)


def of_embeddings(embedded, mask):
    return jnp.tile(embedded @ embedded[0, 0, :, None], (1, 1, 30)), embedded


def attack_objective(embedding, suffix):
    attacked = Partial(of_embeddings)
    return unlearning.attacks.attack_objective(attacked, embedding, TOKENS, TOKENS[:, :2])(suffix)


def distance(wanted, suffix):
    return jnp.sum((suffix - wanted) ** 2)


def gcg(key, embedding, wanted):
    suffix = jnp.asarray([3, 4], jnp.int32)
    found = unlearning.attacks.gcg(
        key, Partial(distance, wanted), embedding, suffix, steps=1, candidates=2, top_k=2
    )
    return found.history


def bowl(params):
    return jnp.sum(params**2)


def noisy_bowl(params, key):
    return bowl(params)


def trimmed(waveform):
    found = speech.trim_silence(np.asarray(waveform), 8000)
    return np.array([found.start, found.stop])


def mapped_points(points):
    """Map points by an affine, of another kind of numbers than theirs."""
    affine = data.Affine(np.array([[1.0, 0.5, 2], [0.25, 1, 3], [0, 0, 1]]))
    return data.map_points((affine,), np.asarray(points)).astype(points.dtype)


@functools.cache
def on_one_device():
    return sharding.data_mesh(devices=1)


def square(row):
    return jnp.sum(row**2, axis=-1)


@functools.cache
def mapped_rows():
    return sharding.map_rows(square, mesh=on_one_device(), batch_size=2)


@functools.cache
def mapped_devices():
    return sharding.pmap(square, on_one_device())


ROWS = noise(2, 5, 3)
VECTORS = noise(2, 4), noise(2, 4, seed=1)

# name -> function of arrays, arrays with a batch of 2 in front
HOSTILE_CALLS = {
    "augment.compose": (
        augment.compose(augment.cutout, augment.horizontal_flip),
        (KEYS, IMAGES[:, 0]),
    ),
    "augment.sometimes": (augment.sometimes(augment.horizontal_flip, 0.5), (KEYS, IMAGES[:, 0])),
    "backdoor.attacks.attack_success_rate": (
        lambda w, x, y: backdoor.attacks.attack_success_rate(network(w), x, y),
        (WEIGHTS, IMAGES, LABELS),
    ),
    "backdoor.attacks.checkerboard_trigger": (
        with_trigger(lambda: backdoor.attacks.checkerboard_trigger(SIDES)),
        (IMAGES,),
    ),
    "backdoor.attacks.clean_label": (
        lambda k, w, x, y: backdoor.attacks.clean_label(
            k, network(w), x, y, ratio=0.4, iterations=1
        ),
        (KEYS, WEIGHTS, IMAGES, LABELS),
    ),
    "backdoor.attacks.label_consistent": (
        lambda k, w, x, y: backdoor.attacks.label_consistent(
            k, network(w), x, y, ratio=0.4, iterations=1
        ),
        (KEYS, WEIGHTS, IMAGES, LABELS),
    ),
    "backdoor.attacks.patch_trigger": (
        with_trigger(lambda patch: backdoor.attacks.patch_trigger(patch, SIDES)),
        (IMAGES[:, 0, :2, :2], IMAGES),
    ),
    "backdoor.attacks.perturb": (
        lambda k, w, x, y: backdoor.attacks.perturb(k, network(w), x, y, iterations=1),
        (KEYS, WEIGHTS, IMAGES, LABELS),
    ),
    "backdoor.attacks.poison": (
        lambda k, patch, x, y: backdoor.attacks.poison(
            k, backdoor.attacks.patch_trigger(patch, SIDES), x, y, ratio=0.4, classes=3
        ),
        (KEYS, IMAGES[:, 0, :2, :2], IMAGES, LABELS),
    ),
    "backdoor.attacks.sinusoid_trigger": (
        with_trigger(lambda: backdoor.attacks.sinusoid_trigger(SIDES)),
        (IMAGES,),
    ),
    "backdoor.attacks.square_trigger": (
        with_trigger(lambda square: backdoor.attacks.square_trigger(square, SIDES)),
        (IMAGES[:, 0, :2, :2], IMAGES),
    ),
    "backdoor.baselines.cognitive_distillation": (
        lambda k, w, x: backdoor.baselines.cognitive_distillation(k, network(w), x, steps=2),
        (KEYS, WEIGHTS, IMAGES),
    ),
    "backdoor.baselines.ibd_psc": (
        lambda w, x, levels: backdoor.baselines.ibd_psc(
            network(w), Partial(amplified, w), x, levels
        ),
        (WEIGHTS, IMAGES, np.tile(np.arange(2), (2, 1))),
    ),
    "backdoor.baselines.ibd_psc_level": (
        lambda w, x, y, levels: backdoor.baselines.ibd_psc_level(
            Partial(amplified, w), x, y, levels
        ),
        (WEIGHTS, IMAGES, LABELS, np.tile(np.arange(2), (2, 1))),
    ),
    "backdoor.baselines.sd_fct": (
        lambda k, w, x: backdoor.baselines.sd_fct(k, network(w), x),
        (KEYS, WEIGHTS, IMAGES),
    ),
    "backdoor.baselines.strip": (
        lambda k, w, x: backdoor.baselines.strip(k, network(w), x, blends=2),
        (KEYS, WEIGHTS, IMAGES),
    ),
    "backdoor.identify": (
        lambda w, x: backdoor.identify(network(w), x, config=IDENTIFY),
        (WEIGHTS, IMAGES),
    ),
    "backdoor.identify_init": (
        lambda w, x: backdoor.identify_init(network(w), x, config=IDENTIFY),
        (WEIGHTS, IMAGES),
    ),
    "backdoor.identify_result": (identify_result, (WEIGHTS, IMAGES)),
    "backdoor.identify_step": (identify_step, (WEIGHTS, IMAGES, IMAGES[:, 0, :, :, 0])),
    "bilevel.implicit_gradient": (implicit_gradient, VECTORS),
    "llm.evaluate": (evaluate, (DOWN,)),
    "llm.save": (saved(lambda folder, down: llm.save(folder, model(down))), (DOWN,)),
    "llm.score": (score, (DOWN,)),
    "llm.unlearn": (unlearn_model, (DOWN,)),
    "models.classification_loss": (
        lambda k, x, y: models.classification_loss(Classifier(), classifier_params(k), x, y),
        (WEIGHTS, IMAGES, LABELS),
    ),
    "models.llama.apply": (
        lambda down: llama.apply(decoder_params(down), TOKENS, DECODER),
        (DOWN,),
    ),
    "models.llama.embed": (lambda table: llama.embed({"embed": table}, TOKENS), (EMBEDDINGS,)),
    "models.llama.generate": (
        lambda head: llama.generate(decoder_params(head=head), TOKENS, DECODER, steps=2),
        (HEADS,),
    ),
    "models.llama.head": (lambda table: llama.head({"embed": table}), (EMBEDDINGS,)),
    "models.llama.hidden_states": (
        lambda down: llama.hidden_states(decoder_params(down), TOKENS, DECODER),
        (DOWN,),
    ),
    "models.llama.log_prob": (
        lambda down: llama.log_prob(decoder_params(down), TOKENS, DECODER),
        (DOWN,),
    ),
    "models.llama.lora_init": (
        lambda k, down: llama.lora_init(k, decoder_params(down), rank=2, names=("down",)),
        (KEYS, DOWN),
    ),
    "models.llama.lora_merge": (
        lambda down, a, b: llama.lora_merge(decoder_params(down), {"down": {"a": a, "b": b}}),
        (DOWN, noise(2, 1, 8, 2), noise(2, 1, 2, 8)),
    ),
    "models.llama.run_layers": (
        lambda down, x: llama.run_layers(decoder_params(down)["layers"], x, DECODER),
        (DOWN, HIDDEN),
    ),
    "models.llama.sample": (
        lambda k, head: llama.sample(k, decoder_params(head=head), TOKENS, DECODER, steps=2),
        (KEYS, HEADS),
    ),
    "models.llama.save": (
        saved(lambda folder, down: llama.save(folder, decoder_params(down), DECODER)),
        (DOWN,),
    ),
    "models.llama.select_layers": (
        lambda down: llama.select_layers(decoder_params(down)["layers"], 0, 1),
        (DOWN,),
    ),
    "models.population_statistics": (
        lambda k, x: models.population_statistics(
            Classifier(), classifier_params(k), x, batch_size=3
        ),
        (WEIGHTS, IMAGES),
    ),
    "registration.predict": (
        functools.partial(registration.predict, flow),
        (noise(2), noise(2, 6, 5), noise(2, 6, 5, seed=1)),
    ),
    "registration.voxelmorph_loss": (
        functools.partial(registration.voxelmorph_loss, flow),
        (noise(2), noise(2, 6, 5), noise(2, 6, 5, seed=1)),
    ),
    "selftraining.choose_augmentation": (choose_augmentation, (KEYS, WEIGHTS, IMAGES, LABELS)),
    "selftraining.project": (
        lambda hidden, bias, out, x: selftraining.project(
            {"hidden": hidden, "bias": bias, "out": out}, x
        ),
        (noise(2, 4, 4), noise(2, 4), noise(2, 4, 3), noise(2, 5, 4)),
    ),
    "selftraining.pseudo_label": (
        lambda k, w, x: selftraining.pseudo_label(k, network(w), augment.identity, x, views=1),
        (KEYS, WEIGHTS, IMAGES),
    ),
    "selftraining.self_train": (self_train, (WEIGHTS, IMAGES, LABELS, IMAGES[:, :3])),
    "selftraining.simclr_loss": (
        selftraining.simclr_loss(embed_views, augment=augment.identity),
        (WEIGHTS, IMAGES, KEYS),
    ),
    "sharding.from_processes": (
        lambda rows: sharding.from_processes(rows, on_one_device()),
        (ROWS,),
    ),
    "sharding.map_batches": (lambda x: sharding.map_batches(square, x, batch_size=2), (ROWS,)),
    "sharding.map_host_batches": (
        lambda x: sharding.map_host_batches(square, x, batch_size=2),
        (ROWS,),
    ),
    "sharding.map_rows": (lambda x: mapped_rows()(x), (ROWS,)),
    "data.map_points": (mapped_points, (noise(2, 5, 2),)),
    "sharding.pmap": (lambda x: mapped_devices()(x), (ROWS,)),
    "sharding.to_numpy": (sharding.to_numpy, (ROWS,)),
    "speech.trim_silence": (trimmed, (noise(2, 4000),)),
    "training.fit": (fitted, VECTORS),
    "unlearning.attacks.attack_objective": (attack_objective, (EMBEDDINGS, noise(2, 3, 8))),
    "unlearning.attacks.gcg": (gcg, (KEYS, EMBEDDINGS, noise(2, 2, 8))),
    "unlearning.attacks.relearn": (relearn, (KEYS, TABLES)),
    "unlearning.connectivity.bezier_fit": (
        lambda k, a, b: unlearning.connectivity.bezier_fit(k, noisy_bowl, a, b, steps=1),
        (KEYS, *VECTORS),
    ),
    "unlearning.connectivity.bezier_path": (
        lambda a, m, b: unlearning.connectivity.bezier_path(bowl, a, m, b, points=3),
        (*VECTORS, VECTORS[0]),
    ),
    "unlearning.connectivity.linear_path": (
        lambda a, b, l: unlearning.connectivity.linear_path(bowl, a, b, points=l),
        (*VECTORS, noise(2, 3)),
    ),
    "unlearning.coreset.grand": (
        lambda table: unlearning.coreset.grand(next_logits, table, TEXTS),
        (TABLES,),
    ),
    "unlearning.sam_value_and_grad": (unlearning.sam_value_and_grad(bowl), VECTORS[:1]),
    "unlearning.unlearn": (unlearn, (KEYS, TABLES)),
}
