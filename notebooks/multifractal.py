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
# # Multifractal analysis
#
# `jaxml.multifractal.mfdfa` takes a series and returns the generalised Hurst exponents h(q) and
# the spectrum f(alpha). This notebook checks it on a series whose exponents are known, asks of
# real speech whether its spectrum is wide because of correlations or because of its values, and
# takes a gradient through the whole analysis.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxml import multifractal, speech
from jaxml.data import load_speech_corpus
from jaxml.multifractal import surrogates, synthetic

# %% [markdown]
# ## A series with known exponents
#
# A binomial cascade splits a mass again and again in the ratio a : 1 - a. Its h(q) is known in
# closed form. Scales that are powers of two leave out the ripple that the halving makes.

# %%
n = 2**14
cascade = synthetic.cascade(jax.random.key(0), n, a=0.65)
dyadic = tuple(2**k for k in range(4, 12))
result = multifractal.mfdfa(cascade, scales=dyadic)
expected = synthetic.cascade_h(result.q, a=0.65)
print(f"largest |h(q) - closed form|: {jnp.max(jnp.abs(result.h - expected)):.3f}")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
left.loglog(result.scales, jnp.exp(result.log_fluctuation[::8].T), ".-")
left.set(xlabel="scale s, samples", ylabel="F_q(s)", title="fluctuation function")
middle.plot(result.q, result.h, ".", label="found")
middle.plot(result.q, expected, label="closed form")
middle.set(xlabel="q", ylabel="h(q)", title="generalised Hurst exponent")
middle.legend()
right.plot(result.alpha, result.f, ".-")
right.set(xlabel="alpha", ylabel="f(alpha)", title="spectrum")
plt.show()

# %% [markdown]
# ## How wide is the spectrum of plain noise?
#
# A finite series of noise without any multifractality has a spectrum of some width, too. A width
# means something only beside that of surrogates, so draw many of them: `vmap` over keys.

# %%
noise = jax.vmap(lambda key: synthetic.fgn(key, 4096, hurst=0.7))(
    jax.random.split(jax.random.key(1), 32)
)
noise_results = jax.jit(jax.vmap(multifractal.mfdfa))(noise)
h2 = jax.vmap(multifractal.hurst)(noise)
print(f"h(2) of fractional noise with H = 0.7: {h2.mean():.3f} +- {h2.std():.3f}")
print(f"width of its spectrum: {noise_results.width.mean():.3f} +- {noise_results.width.std():.3f}")

# %% [markdown]
# ## Speech, shuffled and phase-randomised
#
# Shuffled samples keep the values and lose all correlation: what width is left comes from heavy
# tails. IAAFT surrogates keep the values and the power spectrum: what width is lost came from
# correlations beyond the spectrum, which is what makes speech multifractal.

# %%
corpus = load_speech_corpus(None)
print(corpus.source)
utterance = max(corpus.audio, key=len)
utterance = utterance[speech.trim_silence(utterance, corpus.rate)][: 2**13]
waveform = speech.dither(jax.random.key(2), jnp.asarray(utterance))
scales = multifractal.default_scales(len(waveform), minimum=8, maximum=512)
analyse = lambda x: multifractal.mfdfa(x, scales=scales)
own = analyse(waveform)

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
axes.plot(own.q, own.h, "k.-", label=f"speech, width {own.width:.2f}")
for name, make in {
    "shuffled": surrogates.shuffle,
    "IAAFT": lambda key, x: surrogates.iaaft(key, x, max_iterations=50),
}.items():
    keys = jax.random.split(jax.random.key(3), 9)
    band = jax.jit(lambda x, keys, make=make: jax.lax.map(lambda k: analyse(make(k, x)), keys))
    surrogate_results = band(waveform, keys)
    width = surrogate_results.width.mean()
    label = f"{name}, width {width:.2f}"
    axes.fill_between(
        own.q, surrogate_results.h.min(0), surrogate_results.h.max(0), alpha=0.4, label=label
    )
axes.set(xlabel="q", ylabel="h(q)")
axes.legend()
plt.show()

# %% [markdown]
# ## Utterances of different lengths in one call
#
# Pad, and give the number of valid samples: it is traced, so one compiled program serves all.

# %%
few = corpus.audio[:6]
lengths = np.array([len(w) for w in few])
batch = np.zeros((len(few), lengths.max()), np.float32)
for row, w in zip(batch, few, strict=True):
    row[: len(w)] = w
padded = jax.vmap(lambda x, length: multifractal.mfdfa(x, scales=scales, length=length))
print("h(2) of each:", np.round(np.asarray(jax.jit(padded)(batch, lengths).h[:, 28]), 3))

# %% [markdown]
# ## A gradient through the analysis
#
# h(-5) - h(5) grows with the strength of multifractality. Its gradient tells which samples make
# it so; a small step along it does what it promises.

# %%
strength = lambda x: (lambda h: h[0] - h[-1])(multifractal.mfdfa(x, scales=scales, q=(-5.0, 5.0)).h)
value, slope = jax.value_and_grad(strength)(waveform)
step = 1e-4 * slope / jnp.linalg.norm(slope)
print(f"promised {jnp.vdot(slope, step):.2e}, got {strength(waveform + step) - value:.2e}")

# %% [markdown]
# ## Two series together
#
# Two noises that share a component: the coefficient of detrended cross-correlation finds their
# correlation at every scale.

# %%
key_a, key_b, key_c = jax.random.split(jax.random.key(4), 3)
a, b, shared = (synthetic.fgn(k, n, hurst=0.6) for k in (key_a, key_b, key_c))
cross = multifractal.mfdcca(a + shared, b + shared)
print("DCCA coefficient, 0.5 expected:", np.round(np.asarray(cross.coefficient[::6]), 2))
