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
# # How much of a forget set is needed?
#
# Unlearning with a twentieth of the forget set, drawn by chance, can forget all of it: the
# coreset effect. This notebook shows it in a small Llama, and where it ends. In one world 48
# people belong to guilds of eight, and a guild has one town, trade, instrument and animal: what
# is true of one member is true of all. In the other world each person has their own. The model
# is to forget the first eight people, from 5, 10, 25 or 100 % of what was said about them.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.tree_util import Partial

from jaxml import training, unlearning
from jaxml.models import llama
from jaxml.unlearning import Sequences, UnlearnConfig, attacks, connectivity, coreset, keywords

CLAUSES = {
    "lives in": ("Arden", "Brill", "Corve"),
    "works as": ("baker", "cooper", "mason"),
    "plays the": ("drum", "flute", "lute"),
    "keeps a": ("cat", "dog", "goat"),
}
NAMES = [
    a + b for a in "Ba Ke Lo Mi Nu Sa".split() for b in "da fin lor mes nak ric ton vy".split()
]
# Every fact of a guild holds of one other guild too, each time of another one.
GUILDS = [(0, 0, 0, 0), (0, 1, 1, 1), (1, 0, 2, 2), (1, 2, 0, 1), (2, 1, 2, 0), (2, 2, 1, 2)]


def sentences(facts):
    """Four sentences a person: the same facts, beginning with another one."""
    texts = []
    for name, row in zip(NAMES, facts, strict=True):
        clauses = [f"{verb} {CLAUSES[verb][fact]}" for verb, fact in zip(CLAUSES, row, strict=True)]
        texts += [" ".join([name, *clauses[i:], *clauses[:i]]) for i in range(4)]
    return texts


rng = np.random.default_rng(0)
worlds = {
    "guilds": sentences(np.repeat(GUILDS, 8, axis=0)),
    "singles": sentences(rng.integers(0, 3, (len(NAMES), 4))),
}
print(*worlds["guilds"][:2], worlds["guilds"][4], sep="\n")

# %% [markdown]
# Three models of each world, from different starts, are six in one program: `jax.vmap` over
# parameters and texts. A token is a word.

# %%
SEEDS, FORGET = 3, 32
words = sorted({word for texts in worlds.values() for text in texts for word in text.split()})
tokens = np.array([[[words.index(word) for word in text.split()] for text in texts]
                   for texts in worlds.values()], np.int32)  # fmt: skip
is_fact = np.isin(tokens, [words.index(word) for three in CLAUSES.values() for word in three])
tokens, is_fact = (jnp.repeat(jnp.asarray(array), SEEDS, axis=0) for array in (tokens, is_fact))
told = Sequences(tokens, jnp.ones(tokens.shape, bool))
forget = jax.tree.map(lambda leaf: leaf[:, :FORGET], told)
retain = jax.tree.map(lambda leaf: leaf[:, FORGET:], told)

DECODER = llama.LlamaConfig(
    vocabulary=len(words), width=32, layers=1, heads=2, key_heads=2, head_width=16, mlp_width=64,
)  # fmt: skip


def apply(params, tokens):
    return llama.apply(params, tokens, DECODER)


def nll(params, texts):
    """Mean over tokens of minus the log-likelihood."""
    logp = unlearning.token_log_prob(apply(params, texts.tokens), texts.tokens)
    return -jnp.mean(logp, where=texts.mask[:, 1:])


def loss(models, rows, key):
    texts = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), rows)
    return jnp.sum(jax.vmap(nll)(models, texts)), {}


@jax.jit
@jax.vmap
def known_rows(params, tokens, is_fact):
    """The share of facts that the model gets right in each sentence."""
    guesses = jnp.argmax(apply(params, tokens), axis=-1)[:, :-1]
    return jnp.mean(guesses == tokens[:, 1:], axis=-1, where=is_fact[:, 1:])


def known(models):
    """Facts known of the forget set and of the retain set, each `[world, seed]`."""
    rows = np.asarray(known_rows(models, told.tokens, is_fact)).reshape(2, SEEDS, -1)
    return rows[..., :FORGET].mean(-1), rows[..., FORGET:].mean(-1)


STARTS = [llama.init(key, DECODER) for key in jax.random.split(jax.random.key(0), 2 * SEEDS)]
OPTIMIZER = optax.adamw(1e-2, weight_decay=0.0)


def fit(texts):
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *STARTS)
    rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), texts)
    return training.fit(
        jax.random.key(1), loss, starts, rows, optimizer=OPTIMIZER, steps=150, batch_size=32
    ).params


def report(name, models):
    """Print the means over seeds, and the range of what is forgotten."""
    gone, kept = known(models)
    for place, world in enumerate(worlds):
        low, high = gone[place].min(), gone[place].max()
        print(f"{name:21} {world:8} forget {gone[place].mean():.2f} ({low:.2f} to {high:.2f})"
              f"  retain {kept[place].mean():.2f}")  # fmt: skip
    return gone, kept


models = fit(told)
repeated = jax.tree.map(lambda leaf: leaf[:, np.resize(np.arange(160), 192)], retain)
never = fit(repeated)
before = report("before", models)
untold = report("never told", never)
assert min(part.min() for part in before) > 0.8

# %% [markdown]
# ## Few sentences for all
#
# Three ways to choose: by chance, what is memorised best (Min-K), and what has the largest
# gradient (GraNd). A coreset is repeated until it has as many rows as the forget set. So every
# run has the same number of optimizer steps and the same batches, and one compiled program serves
# all. One who only guesses gets about a third of the facts right.

# %%
FRACTIONS = (0.05, 0.1, 0.25)
config = UnlearnConfig(steps=40, batch_size=8, learning_rate=1e-3)
keys = jax.random.split(jax.random.key(2), 2 * SEEDS)


@jax.jit
@jax.vmap
def scores_of(key, params, texts):
    logp = unlearning.token_log_prob(apply(params, texts.tokens), texts.tokens)
    return {
        "random": coreset.random(key, FORGET),
        "Min-K": coreset.min_k(logp, texts.mask[:, 1:]),
        "GraNd": coreset.grand(params, apply, texts),
    }


def rows_of(texts, indices):
    return jax.tree.map(lambda leaf: leaf[jnp.resize(indices, FORGET)], texts)


def choose(scores, fraction):
    return jax.vmap(lambda texts, scores: rows_of(texts, coreset.select(scores, fraction)))(
        forget, scores
    )


@jax.jit
@jax.vmap
def unlearned(key, params, chosen, retain):
    return unlearning.unlearn(key, params, apply, chosen, retain, config=config).params


scores = scores_of(keys, models, forget)
after = {
    f"{method} {fraction:.0%}": unlearned(keys, models, choose(scores[method], fraction), retain)
    for method in ("random", "Min-K", "GraNd")
    for fraction in FRACTIONS
}
after["all"] = unlearned(keys, models, forget, retain)
found = {name: report(name, params) for name, params in after.items()}

# %% [markdown]
# In the guilds two sentences of two people do the work of all 32 of eight. Of the others not a
# word was in the coreset. In the other world much of the rest stays.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
for place, (axis, world) in enumerate(zip(axes, worlds, strict=True)):
    for method in ("random", "Min-K", "GraNd"):
        runs = [found[f"{method} {fraction:.0%}"] for fraction in FRACTIONS] + [found["all"]]
        share = 100 * np.array([*FRACTIONS, 1.0])
        gone, kept = (np.array([run[part][place].mean() for run in runs]) for part in (0, 1))
        (line,) = axis.plot(share, gone, "o-", label=method)
        axis.plot(share, kept, "s:", color=line.get_color())
    axis.axhline(untold[0][place].mean(), color="k", lw=0.5)
    axis.set(title=world, xscale="log", xlabel="% of the forget set", ylim=(0, 1))
    axis.set_xticks(share, [f"{value:.0f}" for value in share])
axes[0].set_ylabel("facts known: forget (solid), retain (dotted)")
axes[0].legend()
plt.show()
few = np.mean([found[f"{method} 5%"][0] for method in ("random", "Min-K", "GraNd")], axis=(0, 2))
print(f"known after 5 %, all methods: guilds {few[0]:.2f}, singles {few[1]:.2f}")
assert few[0] < 0.4 and few[0] < few[1] - 0.2

# %% [markdown]
# ## Few words for all
#
# Keywords are what is more typical of the forget set than of the retain set. The loss on them
# alone, on all but them, and on as many tokens drawn by chance:

# %%
decode = lambda row: " ".join(words[token] for token in row)
hits = []
for row in np.asarray(tokens)[::SEEDS]:
    texts, offsets = keywords.token_offsets(decode, row)
    chosen = keywords.extract(texts[:FORGET], texts[FORGET:], count=12)
    print(*chosen)
    hits.append(keywords.token_hits(texts[:FORGET], chosen, offsets[:FORGET]))
hits = jnp.repeat(jnp.asarray(np.stack(hits)), SEEDS, axis=0)
masked = {
    "keywords": keywords.keyword_mask(forget, hits),
    "all but keywords": keywords.complement_mask(forget, hits),
    "chance": keywords.random_mask(jax.random.key(3), forget, hits),
}
by_words = {
    name: report(name, unlearned(keys, models, texts, retain)) for name, texts in masked.items()
}

# %% [markdown]
# ## The same place, or another?
#
# The straight line between the model that forgot by all sentences and the one that forgot by
# a tenth. A barrier of nothing means that they lie in one basin. Both come from one model by 40
# steps, so that it would be news if they did not.


# %%
def losses(forget, retain, params):
    return {"forget": nll(params, forget), "retain": nll(params, retain)}


@jax.jit
@jax.vmap
def path_of(params_a, params_b, forget, retain):
    return connectivity.linear_path(params_a, params_b, Partial(losses, forget, retain), points=9)


path = path_of(after["all"], after["random 10%"], forget, retain)
barriers = jax.vmap(connectivity.barrier)(path.points, path.values["retain"])
for place, world in enumerate(worlds):
    rows = slice(place * SEEDS, (place + 1) * SEEDS)
    print(world, "barriers of the retain loss:", np.round(barriers[rows], 3))
    for part, style in (("forget", "-"), ("retain", ":")):
        plt.plot(path.points[0], path.values[part][rows].mean(0), f"C{place}{style}",
                 label=f"{world}, {part}")  # fmt: skip
plt.xlabel("from all (0) to a tenth (1)")
plt.ylabel("negative log-likelihood")
plt.legend()
plt.show()

# %% [markdown]
# ## Is it gone?
#
# Relearning trains the models on three of the sentences; the model that was never told is the
# control: what it knows afterwards, the three sentences taught. Quantisation rounds the weights
# to four bits, in which small changes may vanish.

# %%
three = choose(jax.vmap(lambda key: coreset.random(key, FORGET))(keys[::-1]), 0.1)


@jax.jit
@jax.vmap
def relearned(key, params, texts):
    return attacks.relearn(
        key, params, apply, texts, steps=20, batch_size=8, learning_rate=1e-3
    ).params


for name, params in {**{name: after[name] for name in ("all", "random 10%")},
                     "never told": never}.items():  # fmt: skip
    report(f"{name}, relearned", relearned(keys, params, three))
    report(f"{name}, 4 bits", attacks.quantise(params))
