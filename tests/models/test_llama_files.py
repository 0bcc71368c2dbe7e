"""Folders of Hugging Face: what transformers computes from them, round trips, and bad files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaged_files import forbidden, public_folder

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig, Scaling
from jaxml.models.llama.config import from_hugging_face

pytest.importorskip("safetensors")
CONFIG = LlamaConfig(64, 24, 3, 4, 2, 8, 40, scaling=Scaling("llama3", 4.0, 1.0, 4.0, 32))
CONFIGS = {
    "llama": CONFIG,
    "llama-linear-tied": dataclasses.replace(
        CONFIG, scaling=Scaling("linear", 2.0), tie_embeddings=True
    ),
    "mistral": LlamaConfig(64, 24, 3, 4, 1, 6, 40, architecture="mistral", window=5, epsilon=1e-6),
    "qwen2": LlamaConfig(
        64, 24, 3, 6, 3, 4, 40, architecture="qwen2", rope_theta=1e6, tie_embeddings=True
    ),
    "qwen2-window": LlamaConfig(64, 24, 3, 6, 3, 4, 40, architecture="qwen2", window=4),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 16))


def parameters(config, dtype="float32"):
    rng = np.random.default_rng(1)
    shapes = llama.init(jax.random.key(0), config)
    draw = lambda like: jnp.asarray(0.2 * rng.normal(size=like.shape), dtype)
    params = jax.tree.map(draw, shapes)
    one = {name: 1 + leaf for name, leaf in params["layers"].items() if name.endswith("norm")}
    return params | {"layers": params["layers"] | one, "norm": 1 + params["norm"]}


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@every_config
def test_transformers_computes_the_same_from_what_is_saved(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = CONFIGS[name]
    params = parameters(config)
    llama.save(tmp_path, params, config)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert type(model).__name__.lower().startswith(name.split("-")[0])
    assert expected.std() > 0.5
    found = llama.apply(params, jnp.asarray(TOKENS), config)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # And from what transformers itself saves, in parts.
    model.save_pretrained(tmp_path / "again", max_shard_size="10KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
    again = llama.load(tmp_path / "again")
    assert_equal(again.params, params)
    assert again.config == config


@every_config
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_exact(name, dtype, tmp_path):
    params = parameters(CONFIGS[name], dtype)
    llama.save(tmp_path, params, CONFIGS[name])
    found = llama.load(tmp_path)
    assert found.config == CONFIGS[name]
    assert_equal(found.params, params)


def test_load_casts_and_lays_out_on_a_mesh(tmp_path):
    params = parameters(CONFIG)
    llama.save(tmp_path, params, CONFIG)
    mesh = llama.decoder_mesh(model=2, devices=8)
    found = llama.load(tmp_path, dtype="bfloat16", mesh=mesh).params
    places = llama.parameter_shardings(CONFIG, mesh)
    jax.tree.map(lambda leaf, place: leaf.sharding == place or pytest.fail(), found, places)
    assert_equal(found, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params))


# As Hugging Face folders of earlier versions have it.
OLD = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "rope_scaling": {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
QWEN = OLD | {"model_type": "qwen2", "rope_scaling": None, "sliding_window": 7}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (OLD, dict(scaling=Scaling("llama3", 32.0), rope_theta=5e5, num_kv_heads=4, head_dim=6)),
        (
            OLD | {"rope_scaling": {"type": "linear", "factor": 2}},
            dict(scaling=Scaling("linear", 2.0)),
        ),
        (QWEN, dict(window=None)),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 0}, dict(window=7)),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 28}, dict(window=None)),
        (OLD | {"model_type": "mistral", "sliding_window": None}, dict(window=None)),
        (OLD | {"model_type": "mistral", "sliding_window": 9}, dict(window=9)),
    ],
)
def test_configurations_of_earlier_versions(values, expected):
    found = from_hugging_face(values)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type='gpt2': accepted is one of 'llama', 'mistral', 'qwen2'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': accepted is 'silu'"),
        ({"attention_bias": True}, "attention_bias=True: accepted is False"),
        (
            {"rope_scaling": {"rope_type": "yarn"}},
            "rope_type='yarn': accepted is one of 'default', 'lin",
        ),
        ({"rope_scaling": {"type": "linear"}}, "factor: missing in the rope parameters"),
        ({"hidden_size": None}, "hidden_size: missing"),
        (
            QWEN | {"use_sliding_window": True, "max_window_layers": 2},
            "sliding_window=7: accepted is a window of all",
        ),
    ],
)
def test_a_configuration_beyond_the_decoder_is_named(change, message):
    values = {name: value for name, value in (OLD | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_hugging_face(values)


# Every value that is read, and what is no value of it though Python would take it for one.
OF_ANOTHER_TYPE = [
    *(
        (name, True)
        for name in OLD
        if name.startswith(("num", "vocab", "hidden_s", "inter", "rms"))
    ),
    *((name, 0) for name in ("rope_scaling", "rope_parameters", "layer_types", "attention_bias")),
    *((name, "false") for name in ("tie_word_embeddings", "use_sliding_window", "mlp_bias")),
    ("tie_word_embeddings", 0),
    ("num_key_value_heads", False),
    ("head_dim", ""),
    ("head_dim", 6.0),
    ("max_position_embeddings", "2048"),
    ("max_window_layers", True),
    ("sliding_window", "7"),
    ("rope_theta", "1e4"),
    ("model_type", 3),
    ("hidden_act", ["silu"]),
    ("rope_parameters", {"rope_type": 1}),
    ("rope_parameters", OLD["rope_scaling"] | {"factor": True}),
    ("rope_parameters", OLD["rope_scaling"] | {"original_max_position_embeddings": 1.5}),
]


@pytest.mark.parametrize(("name", "value"), OF_ANOTHER_TYPE)
def test_a_value_of_another_type_is_refused(name, value):
    inner = value if isinstance(value, dict) else {name: value}
    wrong = next(key for key in reversed(inner) if inner[key] != OLD["rope_scaling"].get(key))
    accepted = "a number|a whole number|a text|a list|an object|true or false"
    with pytest.raises(ValueError, match=f"^{wrong}=.*: accepted is ({accepted})$"):
        from_hugging_face(OLD | {"model_type": "qwen2", name: value})


def test_null_stands_for_what_is_not_said():
    names = "tie_word_embeddings num_key_value_heads head_dim rope_parameters layer_types".split()
    assert from_hugging_face(OLD | dict.fromkeys(names)) == from_hugging_face(OLD)


def test_a_configuration_is_named_by_its_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json: model_type=None: accepted is one of"):
        llama.load(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 8, "vocab_size": 9}')
    with pytest.raises(ValueError, match=r"config\.json: not JSON .*'vocab_size' stands twice"):
        llama.load(tmp_path)


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    llama.save(tmp_path / "model", parameters(CONFIG), CONFIG)
    (tmp_path / "any").write_text("")
    for file in (tmp_path / "model").iterdir():
        assert file.stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_may_not_be_read_says_so(name):
    with public_folder() as folder:
        llama.save(folder, parameters(CONFIG), CONFIG)
        llama.load(folder)
        message = f"{name}: permission denied$"
        with forbidden(folder / name), pytest.raises(ValueError, match=message):
            llama.load(folder)


@pytest.mark.parametrize(
    ("sides", "ends"),
    [
        ([64, 24], [2**64 - 6144, 0]),
        ([64, 24], [0, 2**64 - 1]),
        ([2**63, 2], [0, 0]),
        ([2**62, 4], [0, 6144]),
        ([64, 24], [-1, 6143]),
    ],
)
def test_a_place_beyond_the_file_is_refused(sides, ends, tmp_path):
    llama.save(tmp_path, parameters(CONFIG), CONFIG)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["model.embed_tokens.weight"] |= {"shape": sides, "data_offsets": ends}
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    with pytest.raises(ValueError, match=r"model\.safetensors: truncated, or not safetensors"):
        llama.load(tmp_path)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json: not JSON"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            FileNotFoundError,
            "accepted are weights in",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-100]
            ),
            ValueError,
            "model.safetensors: truncated, or not safetensors",
        ),
        (
            lambda f: rewrite(f, lambda w: w.pop("model.norm.weight")),
            ValueError,
            "model.norm.weight missing, which the configuration asks for",
        ),
        (
            lambda f: edit(f / "config.json", num_hidden_layers=4),
            ValueError,
            r"model.layers.3.\S* and 6 more missing",
        ),
        (
            lambda f: edit(f / "config.json", num_hidden_layers=2),
            ValueError,
            r"model.layers.2.\S* and 6 more without a place",
        ),
        (
            lambda f: edit(f / "config.json", intermediate_size=41),
            ValueError,
            r"mlp.gate_proj.weight has shape \(24, 40\), the configuration gives \(24, 41\)",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("{}"),
            ValueError,
            "no weight_map",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"model.embed_tokens.weight": "part.safetensors"}})
            ),
            FileNotFoundError,
            "part.safetensors: no such file",
        ),
    ],
)
def test_bad_files_are_named(damage, error, message, tmp_path):
    llama.save(tmp_path, parameters(CONFIG), CONFIG)
    damage(tmp_path)
    with pytest.raises(error, match=message):
        llama.load(tmp_path)


def test_bad_paths_and_parameters_are_named(tmp_path, unchecked):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        llama.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"params=\{.*: accepted is shapes"):
        llama.save(tmp_path, parameters(CONFIG), dataclasses.replace(CONFIG, num_layers=2))
    with pytest.raises(ValueError, match="window=5: accepted is None for the architecture 'llama'"):
        llama.save(tmp_path, parameters(CONFIG), dataclasses.replace(CONFIG, window=5))
    assert not list(tmp_path.iterdir())


def test_tokenizer_and_its_number_of_tokens(tmp_path, unchecked):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    words = {word: i for i, word in enumerate("abcdef")}
    own = Tokenizer(models.WordLevel(words, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(tmp_path)
    llama.save(tmp_path, parameters(CONFIG), CONFIG)
    assert llama.load_tokenizer(tmp_path, CONFIG)("d")["input_ids"] == [3]
    with pytest.raises(ValueError, match="the tokenizer has 6 tokens, the decoder 5"):
        llama.load_tokenizer(tmp_path, dataclasses.replace(CONFIG, vocab_size=5))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        llama.load_tokenizer(tmp_path / "nowhere", CONFIG)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="no tokenizer that transformers can read"):
        llama.load_tokenizer(tmp_path, CONFIG)
