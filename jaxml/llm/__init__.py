"""Language models of the Llama family: unlearning, what a model still knows, scores of texts.

A model is loaded once with its tokenizer, and texts go in as strings, chats or tokens:

    model = llm.load("folder, GGUF file or hub name")
    after = llm.unlearn(key, model, forget, retain).model
    llm.evaluate(after, texts=forget).perplexity
    llm.save("folder", after)
"""

from jaxml.llm._evaluate import Evaluation as Evaluation
from jaxml.llm._evaluate import evaluate as evaluate
from jaxml.llm._model import Model as Model
from jaxml.llm._model import load as load
from jaxml.llm._model import save as save
from jaxml.llm._score import score as score
from jaxml.llm._tokens import tokenize as tokenize
from jaxml.llm._unlearn_model import UnlearnedModel as UnlearnedModel
from jaxml.llm._unlearn_model import unlearn as unlearn
