"""The stages of the study of unlearning: each method on the whole set and on its folds."""

import functools

import jax
import numpy as np
from jaxtyping import PyTree

from jaxml.llm._measures import choices, continuations, membership
from jaxml.output.stages import Arrays
from jaxml.reproduce.language.methods import Method, forgotten
from jaxml.reproduce.language.setting import Setting
from jaxml.reproduce.language.training import memorised


def measured(setting: Setting, params: PyTree) -> Arrays:
    """Return what a model recites, answers and gives away of both books, and what it writes."""
    books, scale = setting.library, setting.scale
    scores = functools.partial(membership, params, setting.decoder, batch_size=scale.batch_size)
    prompt = books.forget_passages[0].prompt
    model = params, setting.decoder, books.tokenizer
    written = continuations(*model, [prompt], scale.continuation, 1)
    chosen = {}
    if setting.questions:
        right = choices(
            *model, setting.questions, subject=setting.subject, batch_size=scale.batch_size
        )
        chosen["choices"] = np.array([right.accuracy, right.low, right.high])
    return {
        **memorised(setting, params),
        **chosen,
        "forget_scores": np.asarray(scores(books.forget)),
        "holdout_scores": np.asarray(scores(books.holdout)),
        "sample": np.array(written),
    }


def unlearned(setting: Setting, method: Method, params: PyTree, key) -> Arrays:
    """Return what is measured after unlearning the whole forget set."""
    forget, steps = setting.library.forget, setting.scale.steps
    return measured(setting, forgotten(setting, method, params, forget, steps, key))


def grown(setting: Setting, method: Method, params: PyTree, folds: int, key) -> Arrays:
    """Return what is measured after unlearning so many folds at once, their passages alone."""
    rows = slice(folds * _fold(setting))
    steps = max(1, setting.scale.steps * folds // setting.scale.folds)
    after = forgotten(setting, method, params, setting.library.forget[rows], steps, key)
    return memorised(_first(setting, rows), after)


def requested(setting: Setting, method: Method, params: PyTree, key) -> Arrays:
    """Return what is measured after each of the folds unlearned one after another.

    Each starts from the model that the one before left; passages of all folds so far count.
    """
    size, steps = _fold(setting), max(1, setting.scale.steps // setting.scale.folds)
    parts = []
    for i in range(setting.scale.folds):
        rows = slice(i * size, (i + 1) * size)
        forget = setting.library.forget[rows]
        params = forgotten(setting, method, params, forget, steps, jax.random.fold_in(key, i))
        parts.append(memorised(_first(setting, slice(rows.stop)), params))
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _fold(setting: Setting) -> int:
    return setting.scale.forget // setting.scale.folds


def _first(setting: Setting, rows: slice) -> Setting:
    """Return the setting with the passages of some rows as those that are measured."""
    passages = setting.library.forget_passages[rows]
    return setting._replace(library=setting.library._replace(forget_passages=passages))
