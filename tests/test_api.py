"""One style for all public functions, and `jit` and `vmap` of each from one list of calls."""

import functools
import importlib
import inspect
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxml


def public_functions(module):
    """Yield the dotted names and functions that a module defines or a package re-exports."""
    package = hasattr(module, "__path__")
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, types.FunctionType):
            if value.__module__.startswith("jaxml.") if package else defined_in(module, value):
                yield f"{module.__name__.removeprefix('jaxml.')}.{name}", value
        # Python sets every submodule that was ever imported: take those that are re-exported.
        elif package and f" import {name} as {name}\n" in inspect.getsource(module):
            if isinstance(value, types.ModuleType):
                yield from public_functions(value)


def defined_in(module, value):
    return value.__module__ == module.__name__


def all_public():
    for name in jaxml.__all__:
        yield from public_functions(importlib.import_module(f"jaxml.{name}"))


PUBLIC = dict(all_public())

# Of the user's files.
LOADERS = {
    "data.chunk_tokens",
    "data.load_audio",
    "data.load_books",
    "data.load_brain_pair",
    "data.load_choice_questions",
    "data.load_images",
    "data.load_labels",
    "data.load_passages",
    "data.load_points",
    "data.load_pool",
    "data.load_questions",
    "data.load_series",
    "data.load_speech_corpus",
    "data.load_texts",
    "data.load_transform",
    "data.load_volume",
    "data.read_rows",
}
# Functions of other things than arrays: sizes, functions, numpy at the edge.
NOT_ARRAYS = {
    *LOADERS,
    "augment.compose",
    "augment.sometimes",
    "backdoor.attacks.attack_success_rate",
    "backdoor.attacks.checkerboard_trigger",
    "backdoor.attacks.clean_label",
    "backdoor.attacks.label_consistent",
    "backdoor.attacks.patch_trigger",
    "backdoor.attacks.perturb",
    "backdoor.attacks.poison",
    "backdoor.attacks.sinusoid_trigger",
    "backdoor.attacks.square_trigger",
    "backdoor.baselines.cognitive_distillation",
    "backdoor.baselines.ibd_psc",
    "backdoor.baselines.ibd_psc_level",
    "backdoor.baselines.sd_fct",
    "backdoor.baselines.strip",
    "backdoor.identify_result",
    "backdoor.identify",
    "backdoor.identify_step",
    "backdoor.identify_init",
    "bilevel.implicit_gradient",
    "data.map_points",
    "llm.evaluate",
    "llm.load",
    "llm.save",
    "llm.score",
    "llm.tokenize",
    "llm.unlearn",
    "models.classification_loss",
    "models.llama.apply",
    "models.llama.decoder_mesh",
    "models.llama.embed",
    "models.llama.generate",
    "models.llama.head",
    "models.llama.hidden_states",
    "models.llama.init",
    "models.llama.load",
    "models.llama.load_tokenizer",
    "models.llama.log_prob",
    "models.llama.lora_init",
    "models.llama.lora_merge",
    "models.llama.parameter_shardings",
    "models.llama.run_layers",
    "models.llama.sample",
    "models.llama.save",
    "models.llama.select_layers",
    "models.load_voxelmorph",
    "models.population_statistics",
    "multifractal.default_scales",
    "registration.hausdorff95",
    "registration.predict",
    "registration.voxelmorph_loss",
    "selftraining.project",
    "selftraining.pseudo_label",
    "selftraining.self_train",
    "selftraining.simclr_loss",
    "selftraining.choose_augmentation",
    "sharding.data_mesh",
    "sharding.from_processes",
    "sharding.map_batches",
    "sharding.map_host_batches",
    "sharding.map_rows",
    "sharding.pmap",
    "sharding.to_numpy",
    "speech.trim_silence",
    "training.fit",
    "training.progress_bar",
    "unlearning.attacks.attack_objective",
    "unlearning.attacks.gcg",
    "unlearning.attacks.relearn",
    "unlearning.connectivity.bezier_fit",
    "unlearning.connectivity.bezier_path",
    "unlearning.connectivity.linear_path",
    "unlearning.coreset.grand",
    "unlearning.keywords.complement_mask",
    "unlearning.keywords.extract",
    "unlearning.keywords.keyword_mask",
    "unlearning.keywords.keyword_texts",
    "unlearning.keywords.log_odds",
    "unlearning.keywords.random_mask",
    "unlearning.keywords.tf_idf",
    "unlearning.keywords.token_hits",
    "unlearning.keywords.token_offsets",
    "unlearning.metrics.choice_prompt",
    "unlearning.metrics.cut_answer",
    "unlearning.metrics.knowledge_memorization",
    "unlearning.metrics.knowledge_prompt",
    "unlearning.metrics.rouge_l",
    "unlearning.metrics.verbatim_memorization",
    "unlearning.metrics.zlib_size",
    "unlearning.sam_value_and_grad",
    "unlearning.unlearn",
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def keys():
    return jax.random.split(jax.random.key(0), 3)


X, Y, Q = noise(3, 300), noise(3, 300, seed=1), noise(3, 4, seed=2)
FIT = dict(scales=(16, 32, 64), q=(-1.0, 0.0, 2.0))
SCALES = dict(scales=FIT["scales"])
LABELS = np.stack([np.random.default_rng(i).permutation(np.arange(12) % 3) for i in range(3)])
FIELD, SQUARE = 0.4 * noise(3, 4, 5, 3, 3), 0.4 * noise(3, 6, 5, 2)
IMAGES = noise(3, 4, 5, 3), noise(3, 4, 5, 3, seed=1)
MATRICES = noise(3, 7, 3, 3)
SMALL = np.random.default_rng(0).uniform(size=(3, 12, 8, 8, 3))
CLOUDS = noise(3, 12, 5)
TARGETS = np.eye(3)[LABELS]


def logits(images):
    return images.mean(axis=1).reshape(images.shape[0], -1)[:, :3]


LOGP, LENGTHS, COUNTED = -np.square(noise(3, 4)), LABELS[:, :4] + 1, LABELS[:, :4] > 0
TEXT_LOGITS, TEXT = noise(3, 2, 4, 5), np.stack([LABELS[:, :4], LABELS[:, 4:8]], axis=1)
SPEAKERS = (noise(3, 12, 5), LABELS, noise(3, 4, 5, seed=1))

# name -> (static keyword arguments, arrays with a batch of 3 in front)
CALLS = {
    **{
        f"augment.{name}": ({}, (keys, SMALL[:, 0]))
        for name in (
            "affine",
            "color_jitter",
            "cutout",
            "horizontal_flip",
            "flip_crop",
            "gaussian_blur",
            "grayscale",
            "identity",
            "padded_crop",
            "rand_augment",
            "resized_crop",
            "rotate",
            "simclr_view",
        )
    },
    "augment.cutmix": ({}, (keys, SMALL, TARGETS)),
    "augment.mixup": ({}, (keys, SMALL, TARGETS)),
    "backdoor.attacks.adaptive_blend": (dict(ratio=0.3), (keys, SMALL, LABELS)),
    "backdoor.attacks.all_to_all": ({}, (keys, SMALL, LABELS)),
    "backdoor.attacks.badnets": ({}, (keys, SMALL, LABELS)),
    "backdoor.attacks.blend": ({}, (keys, SMALL, LABELS)),
    "backdoor.attacks.blend_trigger": ({}, (SMALL[:, 0],)),
    "backdoor.attacks.noise": (dict(shape=(8, 8, 3)), (keys,)),
    "backdoor.attacks.sig": (dict(ratio=0.3), (keys, SMALL, LABELS)),
    "backdoor.attacks.trojan": ({}, (keys, SMALL, LABELS)),
    "backdoor.attacks.wanet": ({}, (keys, SMALL, LABELS)),
    "backdoor.attacks.warp_trigger": (dict(shape=(8, 8, 3)), (keys,)),
    "backdoor.auroc": ({}, (noise(3, 12), LABELS == 0)),
    "backdoor.baselines.abl": ({}, (np.square(noise(3, 2, 12)),)),
    "backdoor.baselines.abl_loss": ({}, (np.square(noise(3, 12)),)),
    "backdoor.baselines.activation_clustering": (
        dict(classes=3, components=3),
        (CLOUDS, LABELS),
    ),
    "backdoor.baselines.activation_likelihood": (
        {},
        (noise(3, 12, 4, 5), noise(3, 5), np.square(noise(3, 5)) + 0.1),
    ),
    "backdoor.baselines.flare": ({}, (CLOUDS,)),
    "backdoor.baselines.spectral_signature": (dict(classes=3), (CLOUDS, LABELS)),
    "backdoor.class_split": (dict(classes=3), (CLOUDS, LABELS, noise(3, 12))),
    "backdoor.detection_rates": ({}, (LABELS > 0, LABELS == 0)),
    "backdoor.combine_scores": ({}, (noise(3, 2, 12),)),
    "backdoor.mspc": ({}, (SMALL, np.full((3, 8, 8), 0.5))),
    "backdoor.spc": ({}, (SMALL,)),
    "models.unit_images": ({}, (SMALL,)),
    "models.llama.chunked_log_prob": (
        {},
        (noise(3, 2, 5, 4), noise(3, 4, 6), np.arange(30).reshape(3, 2, 5) % 6),
    ),
    "multifractal.cumulants": (SCALES, (X,)),
    "multifractal.fluctuation": ({}, (X,)),
    "multifractal.hurst": (SCALES, (X,)),
    "multifractal.mfdcca": (FIT, (X, Y)),
    "multifractal.mfdfa": (FIT, (X,)),
    "multifractal.mfdma": (FIT, (X,)),
    "multifractal.quadratic_spectrum": ({}, (noise(3, 8), noise(3, 8, seed=1))),
    "multifractal.surrogates.iaaft": ({}, (keys, X)),
    "multifractal.surrogates.phase": ({}, (keys, X)),
    "multifractal.surrogates.shuffle": ({}, (keys, X)),
    "multifractal.synthetic.cascade": (dict(n=64), (keys,)),
    "multifractal.synthetic.cascade_h": ({}, (Q,)),
    "multifractal.synthetic.fbm": (dict(n=64), (keys,)),
    "multifractal.synthetic.fbm_h": ({}, (Q,)),
    "multifractal.synthetic.fgn": (dict(n=64), (keys,)),
    "multifractal.synthetic.fgn_h": ({}, (Q,)),
    "multifractal.synthetic.levy_stable": (dict(n=64), (keys,)),
    "multifractal.synthetic.levy_stable_h": ({}, (Q,)),
    "registration.bending_energy": ({}, (FIELD,)),
    "registration.compose": ({}, (FIELD, FIELD[::-1])),
    "registration.count_folds": (dict(scheme="digital"), (FIELD,)),
    "registration.dice": ({}, (np.square(FIELD), np.square(FIELD[::-1]))),
    "registration.dice_per_label": (
        dict(labels=(0, 1)),
        tuple((x > 0).astype(int) for x in IMAGES),
    ),
    "registration.diffeomorphic_layer": ({}, (FIELD,)),
    "registration.expm": ({}, (MATRICES,)),
    "registration.fold_free": ({}, (SQUARE,)),
    "registration.fold_percentages": ({}, (FIELD,)),
    "registration.grad_l2": ({}, (FIELD,)),
    "registration.integrate_velocity": ({}, (FIELD,)),
    "registration.inverse": ({}, (FIELD,)),
    "registration.inverse_consistency": ({}, (FIELD, FIELD[::-1])),
    "registration.jacobian": ({}, (FIELD,)),
    "registration.jacobian_determinant": ({}, (FIELD,)),
    "registration.layer_residual": ({}, (FIELD,)),
    "registration.min_jacobian_determinant": ({}, (FIELD,)),
    "registration.mse": ({}, IMAGES),
    "registration.mutual_information": ({}, IMAGES),
    "registration.ncc": ({}, IMAGES),
    "registration.non_diffeomorphic_volume": ({}, (FIELD,)),
    "registration.poisson_solve": ({}, (IMAGES[0],)),
    "registration.register": (dict(steps=2), (SQUARE[..., 0], SQUARE[..., 1])),
    "registration.sd_log_jacobian": ({}, (FIELD,)),
    "registration.warp": ({}, (IMAGES[0], FIELD)),
    "speech.correlation_matrix": ({}, (noise(3, 4, 6), noise(3, 5, 6, seed=1))),
    "speech.dither": ({}, (keys, X)),
    "speech.identify_speakers": (dict(speakers=3), SPEAKERS),
    "speech.match_templates": (dict(speakers=3), SPEAKERS),
    "speech.mfcc": (dict(rate=8000), (noise(3, 3000),)),
    "selftraining.init_projection": (dict(features=4), (keys,)),
    "selftraining.nt_xent": ({}, (CLOUDS, CLOUDS[::-1])),
    "speech.mfcc_summary": (dict(rate=8000), (noise(3, 3000),)),
    "speech.utterance_features": (dict(rate=8000, scales=(16, 32, 64)), (X,)),
    "training.batch_indices": (dict(rows=7, batch_size=3), (keys, np.arange(3))),
    "unlearning.attacks.prepend": ({}, (TEXT, LABELS)),
    "unlearning.attacks.quantize": ({}, (noise(3, 4, 5),)),
    "unlearning.connectivity.barrier": ({}, (np.tile(np.linspace(0, 1, 4), (3, 1)), LOGP)),
    "unlearning.coreset.el2n": ({}, (TEXT_LOGITS, TEXT, TEXT > 0)),
    "unlearning.coreset.k_center": ({}, (CLOUDS,)),
    "unlearning.coreset.keyword_density": ({}, (LABELS > 1, LABELS > 0)),
    "unlearning.coreset.loss": ({}, (LOGP, COUNTED)),
    "unlearning.coreset.min_k": ({}, (LOGP, COUNTED)),
    "unlearning.coreset.moderate": ({}, (keys, CLOUDS)),
    "unlearning.coreset.perplexity": ({}, (LOGP, COUNTED)),
    "unlearning.coreset.random": (dict(count=7), (keys,)),
    "unlearning.coreset.select": (dict(fraction=0.5), (LOGP,)),
    "unlearning.dpo": ({}, (LOGP, LOGP[::-1], LOGP - 1, LOGP + 1)),
    "unlearning.grad_diff": ({}, (LOGP, LOGP[::-1])),
    "unlearning.gradient_ascent": ({}, (LOGP,)),
    "unlearning.idk_nll": ({}, (LOGP, LENGTHS, LOGP[::-1], LENGTHS)),
    "unlearning.kl_retain": ({}, (TEXT_LOGITS, TEXT_LOGITS[::-1])),
    "unlearning.mean_nll": ({}, (noise(3, 2, 4), TEXT > 0)),
    "unlearning.metrics.binomial_interval": ({}, (np.arange(3), np.full(3, 7))),
    "unlearning.metrics.exact_memorization": ({}, (LABELS, LABELS[::-1], LABELS > 0)),
    "unlearning.metrics.auroc": ({}, (LOGP, LOGP[::-1])),
    "unlearning.metrics.extraction_strength": ({}, (LABELS, LABELS[::-1], LABELS > 0)),
    "unlearning.metrics.forget_quality": ({}, (LOGP, LOGP[::-1])),
    "unlearning.metrics.loss_score": ({}, (LOGP, COUNTED)),
    "unlearning.metrics.min_k_plus_plus": ({}, (TEXT_LOGITS, TEXT, TEXT > 0)),
    "unlearning.metrics.min_k_prob": ({}, (LOGP, COUNTED)),
    "unlearning.metrics.model_utility": ({}, (np.square(LOGP),)),
    "unlearning.metrics.multiple_choice_accuracy": ({}, (noise(3, 12, 4), LABELS)),
    "unlearning.metrics.perplexity": ({}, (LOGP, COUNTED)),
    "unlearning.metrics.privacy_leakage": ({}, (LOGP, LOGP[::-1], LOGP, LOGP + 0.1)),
    "unlearning.metrics.reference_score": ({}, (LOGP, LOGP[::-1], COUNTED)),
    "unlearning.metrics.relative_probability": ({}, (LOGP[:, 0], LOGP)),
    "unlearning.metrics.truth_ratio": ({}, (LOGP[:, 0], LOGP)),
    "unlearning.metrics.truth_score": ({}, (np.square(LOGP),)),
    "unlearning.metrics.zlib_score": ({}, (LOGP, COUNTED, LENGTHS[:, 0])),
    "unlearning.nll": ({}, (LOGP,)),
    "unlearning.npo": ({}, (LOGP, LOGP[::-1])),
    "unlearning.rmu": ({}, (noise(3, 2, 4, 5), noise(3, 5), TEXT_LOGITS, TEXT_LOGITS[::-1])),
    "unlearning.rmu_control": (dict(width=4, dtype="float64"), (keys,)),
    "unlearning.satimp": ({}, (LOGP, COUNTED)),
    "unlearning.sequence_log_prob": ({}, (TEXT_LOGITS, TEXT, TEXT > 0)),
    "unlearning.simnpo": ({}, (LOGP, LENGTHS)),
    "unlearning.subtract_task_vector": ({}, (LOGP, LOGP[::-1])),
    "unlearning.task_vector": ({}, (LOGP, LOGP[::-1])),
    "unlearning.token_log_prob": ({}, (TEXT_LOGITS, TEXT)),
    "unlearning.wga": ({}, (LOGP, COUNTED)),
}


def call(name):
    """Return the function of arrays alone, and its arrays for two calls."""
    static, arrays = CALLS[name]
    function = PUBLIC[name]
    if name == "multifractal.fluctuation":
        function = lambda x: PUBLIC[name](x, FIT["scales"], FIT["q"])
    if name in ("backdoor.mspc", "backdoor.spc"):
        function = functools.partial(function, logits)
    if name == "registration.layer_residual":
        function = lambda u: PUBLIC[name](PUBLIC["registration.diffeomorphic_layer"](u))
    arrays = [a()[:2] if callable(a) else jnp.asarray(a[:2]) for a in arrays]
    return functools.partial(function, **static), arrays


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def test_every_public_function_is_in_the_list_of_calls():
    assert len(PUBLIC) >= 20
    assert set(CALLS) | NOT_ARRAYS == set(PUBLIC)


@pytest.mark.parametrize("name", CALLS)
def test_jit_and_vmap_equal_plain_calls(name):
    function, arrays = call(name)
    plain = [function(*row) for row in zip(*arrays, strict=True)]
    assert_same(jax.jit(function)(*(a[0] for a in arrays)), plain[0])
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *plain)
    assert_same(jax.jit(jax.vmap(function))(*arrays), stacked)


def takes_floats(name):
    _, arrays = CALLS[name]
    floating = any(not callable(a) and a.dtype == "float64" for a in arrays)
    return (
        X is arrays[-1]
        or floating
        and name.split(".")[0]
        in ("augment", "backdoor", "models", "registration", "selftraining", "unlearning")
    )


@pytest.mark.parametrize("name", [*filter(takes_floats, CALLS)])
def test_float32_stays_float32(name, unchecked):
    function, arrays = call(name)
    single = [a[0].astype("float32") if a.dtype == "float64" else a[0] for a in arrays]
    for leaf in jax.tree.leaves(jax.eval_shape(function, *single)):
        assert leaf.dtype == "float32" or leaf.dtype.kind in "ib"


# "Arguments, result and errors as for `badnets`"
DESCRIBES_RESULT = re.compile(
    r"\AReturn |^Returns:$|\byields\b|\bresult\b[\w\s]*\bas for `", re.MULTILINE
)
# "Arguments as for `mfdfa`", "`fgn` with the same arguments"
DEFERS = re.compile(r"(as for|as|see) `\w+`|`\w+` with the same arguments")


def every_parameter():
    for name, function in PUBLIC.items():
        for place, parameter in enumerate(inspect.signature(function).parameters.values()):
            yield name, place, parameter


def is_random_key(parameter):
    return "PRNG" in str(parameter.annotation) or "Key" in str(parameter.annotation)


def test_a_random_key_is_called_key_and_comes_first():
    offenders = [
        f"{name}({parameter.name})"
        for name, place, parameter in every_parameter()
        if parameter.name in ("rng", "seed", "rng_key", "prng")
        or is_random_key(parameter) != (parameter.name == "key")
        or (is_random_key(parameter) and place > 0)
    ]
    assert not offenders


def kind(parameter):
    """Return the place in the order key, functions, params, data; None for settings and paths."""
    annotation = str(parameter.annotation)
    if is_random_key(parameter):
        return 0
    if "Callable" in annotation:
        return 1
    if parameter.name != "data" and ("PyTree" in annotation or "dict[str" in annotation):
        return 2
    return 3 if re.search("Array|ndarray|Sequences|PyTree", annotation) else None


def is_in_order(function):
    parameters = inspect.signature(function).parameters.values()
    kinds = [kind(p) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    known = [k for k in kinds if k is not None]
    return known == sorted(known)


def test_key_functions_params_and_data_come_in_this_order():
    offenders = [name for name, function in PUBLIC.items() if not is_in_order(function)]
    assert not offenders


def test_arguments_with_a_default_are_keyword_only():
    offenders = [
        f"{name}({parameter.name})"
        for name, _, parameter in every_parameter()
        if parameter.default is not parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
    ]
    assert not offenders


def test_every_argument_is_annotated():
    offenders = [
        f"{name}({parameter.name})"
        for name, _, parameter in every_parameter()
        if parameter.annotation is parameter.empty
    ]
    assert not offenders


DOCSTRINGS = {name: inspect.getdoc(function) or "" for name, function in PUBLIC.items()}


def test_docstring_has_a_summary():
    summaries = {name: text.partition("\n")[0] for name, text in DOCSTRINGS.items()}
    assert not [
        name for name, line in summaries.items() if not line[:1].isupper() or line[-1] != "."
    ]


def test_docstring_describes_every_argument():
    offenders = [
        f"{name}({parameter.name})"
        for name, _, parameter in every_parameter()
        if not DEFERS.search(DOCSTRINGS[name])
        and not re.search(rf"\b{parameter.name}\b", DOCSTRINGS[name])
    ]
    assert not offenders


def test_docstring_gives_the_shape_of_arrays():
    takes_arrays = {name for name, _, p in every_parameter() if "Array" in str(p.annotation)}
    offenders = [
        name
        for name in takes_arrays
        if not re.search(r"\[.*\]", DOCSTRINGS[name]) and not DEFERS.search(DOCSTRINGS[name])
    ]
    assert not offenders


def test_docstring_describes_the_result():
    offenders = [
        name
        for name, function in PUBLIC.items()
        if inspect.signature(function).return_annotation is not None
        and not DESCRIBES_RESULT.search(DOCSTRINGS[name])
    ]
    assert not offenders
