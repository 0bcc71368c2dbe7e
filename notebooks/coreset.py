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
# Unlearning on a twentieth of the forget set, drawn by chance, can forget all of it: the coreset
# effect. This notebook shows it in a small Llama, and where it ends. There are two worlds of 48
# people. In the first they belong to guilds, and a guild has one town, trade, instrument and
# animal, so that all sentences about it tell the same. In the second, each person has their own.
# The model is to forget the first eight people, by 5, 10, 25 or 100 % of what it was told of them.

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
FIRST, SECOND = ("Ba", "Ke", "Lo", "Mi", "Nu", "Sa"), "da fin lor mes nak ric ton vy".split()
NAMES = [first + second for first in FIRST for second in SECOND]
# A row a guild. Each fact of it is also one of another guild, so that no word is only its own.
GUILDS = [(0, 0, 0, 0), (0, 1, 1, 1), (1, 0, 2, 2), (1, 2, 0, 1), (2, 1, 2, 0), (2, 2, 1, 2)]


def sentences(facts):
    """Four sentences a person: the same facts, each time from another one on."""
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
# A token is a word. Three models of each world, from different starts, are six in one program:
# `jax.vmap` over parameters and texts. The same is done without a word about the eight: what
# these models get right, one can guess. They are below a third in the guilds, because the way
# the other guilds' facts go together misleads them.

# %%
SEEDS, FORGET, ROWS = 3, 32, 192
words = sorted({word for texts in worlds.values() for text in texts for word in text.split()})
number = {word: place for place, word in enumerate(words)}
facts = [number[word] for three in CLAUSES.values() for word in three]
tokens = np.array(
    [[[number[word] for word in text.split()] for text in texts] for texts in worlds.values()],
    np.int32,
)
tokens = jnp.asarray(np.repeat(tokens, SEEDS, axis=0))
is_fact = jnp.isin(tokens, jnp.asarray(facts))
told = Sequences(tokens, jnp.ones(tokens.shape, bool))
forget, retain = told[:FORGET], told[FORGET:]

DECODER = llama.LlamaConfig(
    vocab_size=len(words),
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
)


def apply(params, tokens):
    return llama.apply(params, tokens, DECODER)


def nll(params, texts):
    """Mean over tokens of minus the log-likelihood."""
    logp = unlearning.token_log_prob(apply(params, texts.tokens), texts.tokens)
    return unlearning.mean_nll(logp, texts.mask[:, 1:])


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
# Repeated to as many rows, so that the compiled program serves again.
never = fit(retain[np.resize(np.arange(ROWS - FORGET), ROWS)])
before = report("before", models)
untold = report("never told", never)
assert min(part.mean() for part in before) > 0.9

# %% [markdown]
# ## Few sentences for all
#
# Three ways to choose: by chance, what is memorised best (Min-K), and what has the largest
# gradient (GraNd). Every run has the same number of optimizer steps. A coreset is repeated until
# it has as many rows as the forget set: then its batches are as large, and one compiled program
# serves all.

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
        "GraNd": coreset.grand(apply, params, texts),
    }


def choose(scores, fraction):
    """Rows of the forget set that a score picks, for each of the six models."""

    def one(texts, scores):
        rows = jnp.resize(coreset.select(scores, fraction), FORGET)
        return texts[rows]

    return jax.vmap(one)(forget, scores)


@jax.jit
@jax.vmap
def unlearned(key, params, chosen, retain):
    return unlearning.unlearn(key, apply, params, chosen, retain, config=config).params


scores = scores_of(keys, models, forget)
after = {
    f"{method} {fraction:.0%}": unlearned(keys, models, choose(scores[method], fraction), retain)
    for method in ("random", "Min-K", "GraNd")
    for fraction in FRACTIONS
}
after["all"] = unlearned(keys, models, forget, retain)
found = {name: report(name, params) for name, params in after.items()}

# %% [markdown]
# In the guilds two sentences, of two people at most, bring down what is known of all eight: about
# as far as all 32 do, up to the spread between seeds, and to where a model is that was never
# told. In the other world much is left of what was not in the coreset, and by more sentences the
# retain set suffers too: nothing but the names tells the eight from the others. So the effect
# is one of redundancy: two sentences suffice where they say what the others say. Which way of
# choosing is best three models cannot tell: with two layers the order is another one.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
for place, (axis, world) in enumerate(zip(axes, worlds, strict=True)):
    for method in ("random", "Min-K", "GraNd"):
        runs = [found[f"{method} {fraction:.0%}"] for fraction in FRACTIONS] + [found["all"]]
        share = 100 * np.array([*FRACTIONS, 1.0])
        gone, kept = (np.array([run[part][place].mean() for run in runs]) for part in (0, 1))
        (line,) = axis.plot(share, gone, "o-", label=method)
        axis.plot(share, kept, "s:", color=line.get_color())
    axis.axhline(untold[0][place].mean(), color="k", lw=0.5, label="never told")
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
# Keywords are words that are more typical of the forget set than of the retain set; they are
# printed for each world, names among them, which as first words have no loss. Unlearning works on
# them alone, on all but them, and as a control on as many tokens of each sentence drawn by
# chance. The keywords carry the facts: without them, more of these stay. Where all sentences
# tell the same, tokens drawn by chance do as well, since among 32 sentences they hit every fact.

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
assert by_words["keywords"][0].mean() < by_words["all but keywords"][0].mean()

# %% [markdown]
# ## The same place, or another?
#
# The straight line between the model that forgot by all sentences and the one that forgot by
# a tenth of them. The barrier is how far the loss of the retain set rises above the line between
# its ends; 0 means that both models lie in one basin. It is a weak test here: both come from one
# model by 40 steps.


# %%
def losses(forget, retain, params):
    return {"forget": nll(params, forget), "retain": nll(params, retain)}


@jax.jit
@jax.vmap
def path_of(params_a, params_b, forget, retain):
    return connectivity.linear_path(Partial(losses, forget, retain), params_a, params_b, points=9)


path = path_of(after["all"], after["random 10%"], forget, retain)
barriers = jax.vmap(connectivity.barrier)(path.points, path.values["retain"])
figure, axis = plt.subplots(layout="constrained")
for place, world in enumerate(worlds):
    rows = slice(place * SEEDS, (place + 1) * SEEDS)
    print(f"{world:8} barriers of the retain loss:", *(f"{b:.3f}" for b in barriers[rows]))
    for part, style in (("forget", "-"), ("retain", ":")):
        mean = path.values[part][rows].mean(axis=0)
        axis.plot(path.points[0], mean, f"C{place}{style}", label=f"{world}, {part}")
axis.set(xlabel="from all (0) to a tenth (1)", ylabel="negative log-likelihood of a token")
axis.legend()
plt.show()
assert barriers[:SEEDS].max() < 0.1

# %% [markdown]
# ## Is it gone?
#
# Relearning trains the models on three of the sentences. The models that were never told are
# the control: what they know afterwards, the three sentences taught them. In the guilds that is
# more than what comes back in the others, at the price of the retain set: redundancy serves
# the attacker too, and without the control one would take for a memory what was taught anew.

# %%
three = choose(jax.vmap(lambda key: coreset.random(key, FORGET))(keys[::-1]), 0.1)


@jax.jit
@jax.vmap
def relearned(key, params, texts):
    return attacks.relearn(
        key, apply, params, texts, steps=20, batch_size=8, learning_rate=1e-3
    ).params


again = {
    name: report(f"{name}, relearned", relearned(keys, params, three))
    for name, params in {"all": after["all"], "10%": after["random 10%"], "never": never}.items()
}
assert again["never"][0][0].mean() > max(again["all"][0][0].mean(), again["10%"][0][0].mean())

# %% [markdown]
# Rounding all weights but the norms to four bits could undo small changes. The model before
# shows what rounding itself costs. By default embeddings and head would stay as they are; here
# they are nearly a third of all weights. Nothing of note comes back.

# %%
for name, params in {"before": models, "all": after["all"], "10%": after["random 10%"]}.items():
    report(f"{name}, 4 bits", attacks.quantize(params, keep=("norm",)))

# %% [markdown]
# A toy shows what the effect can come from, not how far it goes in a real corpus: there, a
# forget set lies somewhere between these two worlds.
