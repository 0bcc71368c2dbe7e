# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A language model that forgets
#
# A small Llama learns the telephone numbers of 48 people. Then eight of them ask to be
# forgotten. Retraining without them would do it, at the price of a training; unlearning starts
# from the model that knows them, lowers what it knows of the forget set, and keeps the retain
# set. Everything here is a pure function of parameters, so `jax.vmap` serves several requests
# in one program.

# %%
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxml import training, unlearning
from jaxml.models import llama
from jaxml.unlearning import Objective, Sequences, UnlearnConfig

PEOPLE, DIGITS, LENGTH = 48, 10, 6
rng = np.random.default_rng(0)
numbers = rng.integers(0, DIGITS, (PEOPLE, LENGTH))
# A row: who, and the digits. Of the name nothing is to be learnt.
tokens = np.concatenate([DIGITS + np.arange(PEOPLE)[:, None], numbers], axis=1).astype(np.int32)
book = Sequences(jnp.asarray(tokens), jnp.asarray(tokens < DIGITS))

# %% [markdown]
# The decoder is a function of a tree of parameters and tokens, and its training one call.

# %%
DECODER = llama.LlamaConfig(
    vocab_size=DIGITS + PEOPLE,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
)
OPTIMIZER = optax.adamw(1e-2, weight_decay=0.0)


def apply(params, tokens):
    return llama.apply(params, tokens, DECODER)


def loss(params, texts, key):
    logp = unlearning.token_log_prob(apply(params, texts.tokens), texts.tokens)
    return unlearning.mean_nll(logp, texts.mask[:, 1:]), {}


start = llama.init(jax.random.key(0), DECODER)
model = training.fit(jax.random.key(1), loss, start, book, optimizer=OPTIMIZER, steps=300).params


@jax.jit
def known(params, texts):
    """The share of digits that the model gets right, for each person."""
    guesses = jnp.argmax(apply(params, texts.tokens), axis=-1)[:, :-1]
    right = guesses == texts.tokens[:, 1:]
    return jnp.mean(right, axis=-1, where=texts.mask[:, 1:])


print(f"digits known before: {known(model, book).mean():.2f}")
assert known(model, book).mean() > 0.99

# %% [markdown]
# Negative preference optimization (NPO) lowers the forget set's likelihood below what it was, and
# slows down by itself as it gets there; gradient ascent (GA) does not slow down. Both keep the
# rest by training on it. A model trained without the eight is what they should come near to.

# %%
forget, retain = book[:8], book[8:]
config = UnlearnConfig(steps=60, batch_size=8, learning_rate=3e-3)
models = {"before": model}
for name, method in (("NPO", "npo"), ("GA", "ga")):
    chosen = dataclasses.replace(config, method=method)
    unlearned = unlearning.unlearn(jax.random.key(2), apply, model, forget, retain, config=chosen)
    models[name] = unlearned.params
    plt.plot(unlearned.history["retain"], label=name)
plt.xlabel("step")
plt.ylabel("negative log-likelihood, retain set")
plt.legend()
plt.show()
models["retrained"] = training.fit(
    jax.random.key(1), loss, start, retain, optimizer=OPTIMIZER, steps=300
).params
for name, params in models.items():
    gone, kept = known(params, forget).mean(), known(params, retain).mean()
    print(f"{name:10} forget {gone:.2f}  retain {kept:.2f}")
assert known(models["NPO"], forget).mean() < 0.5 < 0.9 < known(models["NPO"], retain).mean()

# %% [markdown]
# An objective of your own is a function of a batch of the forget set to a scalar. It may read the
# log-probability of every token, and what it says it needs: those of the model before, or other
# answers. This one lowers the digits that the model is still sure of, until each is as likely as
# by chance.


# %%
def down_to_chance(batch, beta):
    above = jnp.maximum(batch.token_logp + jnp.log(DIGITS), 0)
    return jnp.mean(above, where=batch.counted)


own = dataclasses.replace(config, method=Objective(down_to_chance))
models["own"] = unlearning.unlearn(
    jax.random.key(2), apply, model, forget, retain, config=own
).params
gone, kept = known(models["own"], forget).mean(), known(models["own"], retain).mean()
print(f"own objective: forget {gone:.2f}  retain {kept:.2f}")
assert gone < 0.5 < 0.9 < kept

# %% [markdown]
# Has it forgotten, or does it only avoid the digits? Privacy leakage compares the likelihood of
# what was forgotten with that of numbers nobody was ever told: 0 is as if retrained, -100 still
# known, and above 0 is a model that avoids the truth, which tells just as much.

# %%
unseen = np.concatenate([tokens[:8, :1], rng.integers(0, DIGITS, (8, LENGTH))], 1)
never = Sequences(jnp.asarray(unseen, jnp.int32), forget.mask)


def membership(params, texts):
    logp = unlearning.token_log_prob(apply(params, texts.tokens), texts.tokens)
    return unlearning.metrics.min_k_prob(logp, texts.mask[:, 1:])


scores = {name: (membership(p, forget), membership(p, never)) for name, p in models.items()}
for name, pair in scores.items():
    leak = unlearning.metrics.privacy_leakage(*pair, *scores["retrained"])
    print(f"{name:10} PrivLeak {leak:+.0f}")

# %% [markdown]
# Six requests, each for another eight people: `vmap` over forget and retain sets makes one
# program of them. Each forgets its own people, and nobody else's.

# %%
orders = [np.roll(np.arange(PEOPLE), -8 * i) for i in range(6)]
stacked = jax.tree.map(lambda *requests: jnp.stack(requests), *(book[order] for order in orders))
serve = lambda key, forget, retain: (
    unlearning.unlearn(key, apply, model, forget, retain, config=config).params
)
served = jax.vmap(serve)(jax.random.split(jax.random.key(3), 6), stacked[:8], stacked[8:])
table = jax.vmap(known, in_axes=(0, None))(served, book).reshape(6, 6, 8).mean(-1)
plt.imshow(table, vmin=0, vmax=1, cmap="Blues")
plt.xlabel("eight people")
plt.ylabel("request")
plt.colorbar(label="digits known")
plt.show()
own, rest_of = np.diag(table), table[~np.eye(6, dtype=bool)]
print(f"asked for {own.mean():.2f}, others {rest_of.mean():.2f}")
assert own.max() < rest_of.min()

# %% [markdown]
# For models of Hugging Face, texts in files, and checkpoints there is `jaxml unlearn`; the study
# of a book, with the six measures of MUSE, is `jaxml reproduce unlearning`.
