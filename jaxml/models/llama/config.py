"""The shape of a decoder of the Llama family, and how it is written in files."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from jaxml import checks
from jaxml.files.errors import DataError

Architecture = Literal["llama", "mistral", "qwen2"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
# Of factors and bases: float32 holds it, and what is computed from it.
_LARGEST = 1e30
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
)
# What the values of a `config.json` are, where they are not null.
_KINDS = {
    "true or false": (
        bool,
        "attention_bias mlp_bias tie_word_embeddings use_sliding_window",
    ),
    "a whole number": (
        int,
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim max_position_embeddings sliding_window max_window_layers "
        "original_max_position_embeddings",
    ),
    "a number": (
        int | float,
        "rms_norm_eps rope_theta factor low_freq_factor high_freq_factor",
    ),
    "a text": (str, "model_type hidden_act rope_type type"),
    "an object": (Mapping, "rope_parameters rope_scaling"),
    "a list": (list, "layer_types"),
}
_CLASS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How the rotary frequencies were changed for texts longer than those of the training.

    Attributes:
      kind: "linear": all frequencies over `factor`. "llama3": only those whose wave is longer
        than `original_length / low`, with a ramp down to `original_length / high`.
      factor: of the length.
      low: for "llama3", turns within `original_length` below which all of the factor applies.
      high: for "llama3", turns above which none of it does.
      original_length: for "llama3", tokens.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        _check_positive(factor=self.factor, low=self.low, high=self.high)
        if self.high <= self.low:
            raise checks.refused("high", self.high, f"above low={self.low}")
        checks.counts(original_length=self.original_length)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a decoder; static, hashable.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: width of a hidden state.
      num_layers: number of blocks.
      num_heads: number of heads of the queries.
      num_kv_heads: number of heads of keys and values, a divisor of `num_heads`.
      head_dim: components of a head, an even number.
      intermediate_size: width of the hidden layer of a block's MLP.
      tie_embeddings: whether the head is the table of embeddings.
      epsilon: added to the mean square in the RMS norms.
      rope_theta: base of the rotary frequencies.
      scaling: of the rotary frequencies, none by default.
      window: tokens that a token sees, itself included; all before it by default.
      architecture: "llama", "mistral" (equal to "llama", with a window or none) or "qwen2" (with
        biases of queries, keys and values).
      length: longest text of the training, in tokens; only kept for the files.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    tie_embeddings: bool = False
    epsilon: float = 1e-5
    rope_theta: float = 10000.0
    scaling: Scaling | None = None
    window: int | None = None
    architecture: Architecture = "llama"
    length: int = 2048

    def __post_init__(self):
        checks.choice(ARCHITECTURES, architecture=self.architecture)
        checks.counts(**{name: getattr(self, name) for name in _SIZES}, length=self.length)
        if self.window is not None:
            checks.counts(window=self.window)
        checks.choice((True, False), tie_embeddings=self.tie_embeddings)
        _check_positive(epsilon=self.epsilon, rope_theta=self.rope_theta)
        if self.num_heads % self.num_kv_heads:
            divisors = f"a divisor of num_heads={self.num_heads}"
            raise checks.refused("num_kv_heads", self.num_kv_heads, divisors)
        if self.head_dim % 2:
            raise checks.refused("head_dim", self.head_dim, "an even number")


def from_hugging_face(values: Mapping[str, Any]) -> LlamaConfig:
    """Return the shape that a `config.json` tells.

    Args:
      values: of the file; those of transformers before and since version 5 are understood.

    Raises:
      ValueError: a value is missing, of another type than it has to be, or asks for what the
        decoder cannot do.
    """
    values = _typed(values)
    checks.choice(ARCHITECTURES, model_type=values.get("model_type"))
    architecture = values["model_type"]
    wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for name, value in wanted.items():
        if values.get(name, value) != value:
            raise checks.refused(name, values[name], repr(value))
    needed = "hidden_size intermediate_size num_attention_heads num_hidden_layers vocab_size"
    _check_keys(values, needed.split(), "the configuration")
    checks.counts(**{name: values[name] for name in needed.split()})
    heads, width = values["num_attention_heads"], values["hidden_size"]
    theta, scaling = _rotary(values)
    return LlamaConfig(
        vocab_size=values["vocab_size"],
        hidden_size=width,
        num_layers=values["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads", heads),
        head_dim=values.get("head_dim", width // heads),
        intermediate_size=values["intermediate_size"],
        tie_embeddings=values.get("tie_word_embeddings", False),
        epsilon=values.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        scaling=scaling,
        window=_window(values, architecture),
        architecture=architecture,
        length=values.get("max_position_embeddings", 2048),
    )


def to_hugging_face(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """Return the values of a `config.json`.

    Args:
      config: shape of the decoder.
      dtype: of the weights, such as "float32".
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    scaling = config.scaling
    if scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original_length,
        }
    values = {
        "architectures": [_CLASS[config.architecture]],
        "model_type": config.architecture,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.epsilon,
        "rope_parameters": rope,
        # Both are read by transformers before version 5.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        "tie_word_embeddings": config.tie_embeddings,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
    }
    if config.architecture != "llama":
        values["sliding_window"] = config.window
    if config.architecture == "qwen2":
        values |= {"use_sliding_window": config.window is not None, "max_window_layers": 0}
    elif config.architecture == "llama" and config.window is not None:
        none = "None for the architecture 'llama', whose files cannot tell it; 'mistral' can"
        raise checks.refused("window", config.window, none)
    return values


def _rotary(values: Mapping[str, Any]) -> tuple[float, Scaling | None]:
    rope = _typed(values.get("rope_parameters") or values.get("rope_scaling") or {})
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    _check_positive(rope_theta=theta)
    theta = float(theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    checks.choice(("default", "linear", "llama3"), rope_type=kind)
    if kind == "default":
        return theta, None
    if kind == "linear":
        _check_keys(rope, ["factor"], "the rope parameters")
        return theta, Scaling("linear", rope["factor"])
    names = "factor low_freq_factor high_freq_factor original_max_position_embeddings".split()
    _check_keys(rope, names, "the rope parameters")
    factor, low, high, length = (rope[name] for name in names)
    return theta, Scaling("llama3", factor, low, high, length)


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not null, if each is of its type: a text is no truth value."""
    for accepted, (kind, names) in _KINDS.items():
        for name in names.split():
            value = values.get(name)
            is_flag = kind is not bool and isinstance(value, bool)
            if value is not None and (is_flag or not isinstance(value, kind)):
                raise checks.refused(name, value, accepted)
    return {name: value for name, value in values.items() if value is not None}


def _check_positive(**numbers: Any) -> None:
    for name, number in numbers.items():
        # What comes from a file may be anything.
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not 0 < number < _LARGEST:
            raise checks.refused(name, number, f"a positive number below {_LARGEST:g}")


def _check_keys(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for name in names:
        if name not in values:
            raise DataError(f"{name}: missing in {where}")


def _window(values: Mapping[str, Any], architecture: str) -> int | None:
    window = values.get("sliding_window")
    if architecture == "llama" or (
        architecture == "qwen2" and not values.get("use_sliding_window", False)
    ):
        return None
    full = values.get("max_window_layers", 0) if architecture == "qwen2" else 0
    types = values.get("layer_types", [])
    if not all(isinstance(kind, str) for kind in types):
        raise checks.refused("layer_types", types, "a list of texts")
    mixed = len(set(types)) > 1 or not types and 0 < full < values["num_hidden_layers"]
    if window is not None and mixed:
        raise checks.refused("sliding_window", window, "a window of all layers, or of none")
    none = "full_attention" in types or not types and full >= values["num_hidden_layers"]
    return None if none else window
