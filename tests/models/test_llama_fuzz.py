"""Every reader of weights against damaged and hostile files: read or refused, with no other end."""

import functools
import io
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from damaged_files import Reader, assert_survives, limits

from jaxml.models import llama, load_voxelmorph
from jaxml.models.llama import LlamaConfig, Scaling
from jaxml.models.llama.assemble import GGUF, HUGGING_FACE, disassemble
from jaxml.models.llama.config import to_hugging_face
from jaxml.models.unet import UNet

gguf = pytest.importorskip("gguf")
safetensors = pytest.importorskip("safetensors.numpy")
CONFIG = LlamaConfig(8, 4, 1, 2, 1, 2, 4, scaling=Scaling("llama3", 4.0, 1.0, 4.0, 32))
SHAPES = jax.eval_shape(lambda: llama.init(jax.random.key(0), CONFIG))
PARAMS = jax.tree.map(lambda like: np.full(like.shape, 0.5, np.float32), SHAPES)
PART = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"
DOCUMENTED = (ValueError, FileNotFoundError)
pytestmark = pytest.mark.usefixtures("unchecked")


def weights(**changed):
    return safetensors.save(disassemble(PARAMS, CONFIG, HUGGING_FACE) | changed)


def config_text(**changed):
    return json.dumps(to_hugging_face(CONFIG, "float32") | changed).encode()


def index(file=PART):
    names = disassemble(PARAMS, CONFIG, HUGGING_FACE)
    return json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}).encode()


def folder_of(**files):
    """Write a folder of a decoder, apart from the file that is to be damaged."""
    contents = {"config.json": config_text, "model.safetensors": weights}

    def write(folder):
        for name, content in (contents | files).items():
            (folder / name).write_bytes(content())

    return write


def gguf_file(**changed):
    with tempfile.TemporaryDirectory() as folder:
        return _gguf_file(Path(folder, "a.gguf"), changed)


def _gguf_file(path, changed):
    writer = gguf.GGUFWriter(path, "llama")
    values = dict(block_count=1, head_count=2, head_count_kv=1, embedding_length=4)
    values |= dict(feed_forward_length=4, context_length=32, rope_freq_base=1e4)
    for name, value in (values | changed).items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)
    writer.add_token_list(list("abcdefgh"))
    for name, array in disassemble(PARAMS, CONFIG, GGUF).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def tokenizer(folder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcdef")}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(folder)


def of_tokenizer(name):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer(folder)
        return Path(folder, name).read_bytes()


def voxelmorph(**changed):
    """The weights of vm2, all zero."""
    image = jax.ShapeDtypeStruct((16, 16, 16), "float32")
    shapes = jax.eval_shape(UNet().init, jax.random.key(0), image, image)["params"]
    arrays = {
        f"{kind}_{i:02d}": np.zeros(like.shape, np.float32)
        for i, name in enumerate(sorted(shapes, key=lambda layer: ("edf".index(layer[0]), layer)))
        for kind, like in shapes[name].items()
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays | changed)
    return content.getvalue()


def load(path):
    return llama.load(path.parent)


def load_tokenizer(path):
    return llama.load_tokenizer(path.parent, CONFIG)


READERS = {
    "config": Reader("config.json", config_text, load, beside=folder_of()),
    "safetensors": Reader("model.safetensors", weights, load, beside=folder_of()),
    "index": Reader(INDEX, index, load, beside=folder_of(**{PART: weights})),
    "gguf": Reader("a.gguf", gguf_file, llama.load),
    **{
        name: Reader(name, functools.partial(of_tokenizer, name), load_tokenizer, beside=tokenizer)
        for name in ("tokenizer.json", "tokenizer_config.json")
    },
    "voxelmorph": Reader("a.npz", voxelmorph, load_voxelmorph),
}


def survives(name, folder, count):
    pytest.importorskip("transformers" if "tokenizer" in name else "gguf")
    assert_survives(Reader(**vars(READERS[name]) | {"errors": DOCUMENTED}), folder, count)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name, tmp_path):
    survives(name, tmp_path, 90)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused(name, tmp_path):
    survives(name, tmp_path, 1000)


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


OUTSIDE = (
    "../x.safetensors",
    "../secret/model.safetensors",
    "/secret/model.safetensors",
    "a/../../x.safetensors",
    "..",
    "",
    ".safetensors",
    "a\\b.safetensors",
    "x\0.safetensors",
    "x" * 300 + ".safetensors",
    "config.json",
    3,
    None,
    ["x.safetensors"],
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_no_file_elsewhere(name, tmp_path):
    write(tmp_path / "secret", {"model.safetensors": weights()})
    (tmp_path / "x.safetensors").write_bytes(weights())
    named = str(tmp_path / name[1:]) if str(name).startswith("/") else name
    folder = write(tmp_path / "model", {"config.json": config_text(), INDEX: index(named)})
    with pytest.raises(ValueError, match=r"index.json: file .* accepted are NAME\.safetensors"):
        llama.load(folder)


def test_parts_that_are_links_are_read(tmp_path):
    """So does the cache of Hugging Face keep them."""
    write(tmp_path / "blobs", {"1234": weights()})
    folder = write(tmp_path / "model", {"config.json": config_text(), INDEX: index()})
    (folder / PART).symlink_to("../blobs/1234")
    assert llama.load(folder).config == CONFIG


@pytest.mark.parametrize(
    "changed",
    [
        dict(num_hidden_layers=10**15),
        dict(num_hidden_layers=1.0),
        dict(hidden_size=10**15),
        dict(hidden_size="4"),
        dict(num_attention_heads=0),
        dict(head_dim=2**40),
        dict(vocab_size=2**50),
        dict(intermediate_size=[4]),
        dict(rms_norm_eps=float("nan")),
        dict(rope_parameters=[1]),
        dict(rope_parameters={"rope_theta": 10**400}),
        dict(rope_parameters={"rope_type": ["llama3"]}),
        dict(model_type="qwen2", use_sliding_window=True, layer_types=[[]]),
        dict(model_type="qwen2", use_sliding_window=True, max_window_layers="1"),
        dict(model_type="mistral", sliding_window="all"),
    ],
    ids=str,
)
def test_a_configuration_is_not_believed(changed, tmp_path):
    files = {"config.json": config_text(**changed), "model.safetensors": weights()}
    with limits(), pytest.raises(ValueError):
        llama.load(write(tmp_path, files))


@pytest.mark.parametrize("kind", ["I32", "BOOL", "U8", "C64", "F8_E4M3", "F8_E8M0", "F4"])
def test_weights_are_floating_numbers(kind, tmp_path):
    bits = {"I32": 32, "C64": 64, "F4": 4}.get(kind, 8)
    shapes = {name: w.shape for name, w in disassemble(PARAMS, CONFIG, HUGGING_FACE).items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        stop = at + int(np.prod(shape)) * bits // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(at)
    write(tmp_path, {"config.json": config_text(), "model.safetensors": content})
    with pytest.raises(ValueError, match="accepted are floating numbers|is not readable|not safet"):
        llama.load(tmp_path)


@pytest.mark.parametrize("kind", [gguf.GGUFValueType.UINT8, gguf.GGUFValueType.STRING])
@pytest.mark.parametrize("count", [2**40, 2**63 - 1])
def test_a_gguf_array_of_any_count_ends_with_the_file(kind, count, tmp_path):
    key = b"general.list"
    content = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little")
    content += (1).to_bytes(8, "little") + len(key).to_bytes(8, "little") + key
    content += (9).to_bytes(4, "little") + int(kind).to_bytes(4, "little")
    content += count.to_bytes(8, "little")
    (tmp_path / "a.gguf").write_bytes(content + bytes(64))
    with limits(), pytest.raises(ValueError, match="truncated, or not GGUF"):
        llama.load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "changed", [dict(head_count=0), dict(block_count=2**31), dict(head_count=3)]
)
def test_a_gguf_shape_is_not_believed(changed, tmp_path):
    (tmp_path / "a.gguf").write_bytes(gguf_file(**changed))
    with limits(), pytest.raises(ValueError):
        llama.load(tmp_path / "a.gguf")


def test_no_code_of_a_folder_is_run(tmp_path, monkeypatch):
    """Neither is the user asked whether it may be."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    evil = f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n".encode()
    names = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    settings = json.dumps({"auto_map": names, "tokenizer_class": "Evil"}).encode()
    files = {"evil.py": evil, "tokenizer_config.json": settings}
    files["config.json"] = config_text(auto_map=names, model_type="evil")
    with pytest.raises(ValueError, match="no tokenizer that transformers can read"):
        llama.load_tokenizer(write(tmp_path / "model", files), CONFIG)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bias", [np.array(["a"] * 16), np.zeros(16, complex), np.zeros(16, bool)])
def test_voxelmorph_weights_are_real_numbers(bias, tmp_path):
    (tmp_path / "a.npz").write_bytes(voxelmorph(bias_00=bias))
    with pytest.raises(ValueError, match=r"bias_00 is .*; accepted are real numbers"):
        load_voxelmorph(tmp_path / "a.npz")
