"""The Llama family, Mistral and Qwen2 among it, as pure functions on a tree of parameters."""

from jaxml.models.llama.config import LlamaConfig as LlamaConfig
from jaxml.models.llama.config import Scaling as Scaling
from jaxml.models.llama.decoder import apply as apply
from jaxml.models.llama.decoder import embed as embed
from jaxml.models.llama.decoder import head as head
from jaxml.models.llama.decoder import hidden_states as hidden_states
from jaxml.models.llama.decoder import init as init
from jaxml.models.llama.decoder import run_layers as run_layers
from jaxml.models.llama.decoder import select_layers as select_layers
from jaxml.models.llama.files import Llama as Llama
from jaxml.models.llama.files import load as load
from jaxml.models.llama.files import load_tokenizer as load_tokenizer
from jaxml.models.llama.files import save as save
from jaxml.models.llama.generation import generate as generate
from jaxml.models.llama.generation import sample as sample
from jaxml.models.llama.likelihood import chunked_log_prob as chunked_log_prob
from jaxml.models.llama.likelihood import log_prob as log_prob
from jaxml.models.llama.lora import lora_init as lora_init
from jaxml.models.llama.lora import lora_merge as lora_merge
from jaxml.models.llama.sharding import decoder_mesh as decoder_mesh
from jaxml.models.llama.sharding import parameter_shardings as parameter_shardings
