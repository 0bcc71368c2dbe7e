"""Closed-set speaker identification: the published route, the whole surface, and MFCC."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import multifractal, sharding, speech
from jaxml.data import SpeechCorpus, load_speech_corpus
from jaxml.multifractal import surrogates
from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, mean_and_deviation
from jaxml.output.stages import Arrays, Stages
from jaxml.speech._surface import SPECTRUM

FOLDS = 5
REPEATS = {"quick": 1, "standard": 5, "paper": 20}
SURROGATES = {"quick": 19, "standard": 39, "paper": 99}
SURROGATE_SAMPLES = 2**14
# Utterances that are timed.
TIMED = 100
# Utterances a device analyses at a time: enough to fill it, few enough for its memory.
BATCH = 4
SETS = {
    "spectrum": "spectrum, 6 parameters (the paper's)",
    "h": "h(q)",
    "surface": "ln F surface of the waveform",
    "surface3": "ln F surface of three views",
    "mfcc": "MFCC, mean and deviation",
    "both": "MFCC + ln F surface of three views",
}
ROUTES = {"templates": "correlation with templates (the paper's)", "lda": "shrinkage LDA"}


def experiment(settings, stages: Stages, progress) -> Report:
    """Identify the speakers of a corpus from each feature set by both routes.

    Cross-validation in five folds of whole sentences, so that no test sentence was heard in
    training; each repeat draws the folds and the dither anew.
    """
    repeats = REPEATS[settings.scale]
    bar = progress.add_task("speech: loading", total=3 + 2 * repeats)

    def step(text):
        progress.update(bar, advance=1, description=f"speech: {text}")

    corpus = load_speech_corpus(settings.data)
    waveforms, lengths = _padded(corpus)
    inputs = {
        "audio": waveforms,
        "length": lengths,
        "rate": corpus.rate,
        "seed": settings.seed,
    }
    step("timing")
    timing = stages.run(
        "timing", inputs, lambda: _timing(waveforms[:TIMED], lengths[:TIMED], corpus.rate)
    )
    rows = []
    for repeat in range(repeats):
        key = jax.random.fold_in(jax.random.key(settings.seed), repeat)
        step(f"features, repeat {repeat + 1} of {repeats}")
        drawn = {**inputs, "repeat": repeat}
        make = functools.partial(_features, key, waveforms, lengths, corpus.rate)
        sets = stages.run(f"features-{repeat}", drawn, make)
        step(f"folds, repeat {repeat + 1} of {repeats}")
        known = {
            **drawn,
            "speaker": corpus.speaker,
            "sentence": corpus.sentence,
            "speakers": len(corpus.speakers),
        }
        make = functools.partial(_folds, key, sets, corpus)
        rows.append(stages.run(f"folds-{repeat}", known, make))
    step("surrogates")
    count = SURROGATES[settings.scale]
    chosen = np.unique(corpus.speaker, return_index=True)[1]
    key = jax.random.key(settings.seed)
    bands = stages.run(
        "surrogates",
        {**inputs, "chosen": chosen, "count": count},
        lambda: _surrogates(key, waveforms[chosen], lengths[chosen], corpus.rate, count),
    )
    step("done")
    return _report(corpus, rows, timing, bands)


def _padded(corpus: SpeechCorpus) -> tuple[np.ndarray, np.ndarray]:
    """Return trimmed waveforms `[utterance, time]`, zero-padded, and their lengths."""
    trimmed = [w[speech.trim_silence(w, corpus.rate)] for w in corpus.audio]
    lengths = np.array([len(w) for w in trimmed], np.int32)
    waveforms = np.zeros((len(trimmed), lengths.max()), np.float32)
    for row, waveform in zip(waveforms, trimmed, strict=True):
        row[: len(waveform)] = waveform
    return waveforms, lengths


def _dithered(key, waveforms, lengths):
    """Add 8-bit dither inside each utterance: word lengths differ between the speakers."""
    keys = jax.random.split(key, len(lengths))
    inside = np.arange(waveforms.shape[1]) < lengths[:, None]
    return jnp.where(inside, jax.jit(jax.vmap(speech.dither))(keys, jnp.asarray(waveforms)), 0)


def _multifractal(rate):
    """Return the analysis of all utterances in one compiled call."""
    return sharding.map_rows(
        lambda row: speech.utterance_features(row[0], rate, length=row[1]), batch_size=BATCH
    )


def _cepstral(rate):
    return sharding.map_rows(
        lambda row: speech.mfcc_summary(row[0], rate, length=row[1]), batch_size=BATCH
    )


def _features(key, waveforms, lengths, rate) -> Arrays:
    rows = (_dithered(key, waveforms, lengths), jnp.asarray(lengths))
    features = _multifractal(rate)(rows)

    def flat(features):
        return sharding.to_numpy(features).reshape(len(lengths), -1)

    sets = {
        "spectrum": flat(features.spectrum[:, 0]),
        "h": flat(features.h[:, 0]),
        "surface": flat(features.surface[:, 0]),
        "surface3": flat(features.surface),
        "mfcc": flat(_cepstral(rate)(rows)),
    }
    return {**sets, "both": np.concatenate([sets["mfcc"], sets["surface3"]], axis=1)}


def _timing(waveforms, lengths, rate) -> Arrays:
    """Return seconds for these utterances, compilation apart, beside librosa on the same ones."""
    import librosa

    rows = (jnp.asarray(waveforms), jnp.asarray(lengths))
    seconds = {}
    for name, run in {"multifractal": _multifractal(rate), "mfcc": _cepstral(rate)}.items():
        for attempt in (f"{name}, first call", name):
            start = time.perf_counter()
            jax.block_until_ready(run(rows))
            seconds[attempt] = time.perf_counter() - start
    librosa.feature.mfcc(y=waveforms[0, : lengths[0]], sr=rate)
    start = time.perf_counter()
    for waveform, length in zip(waveforms, lengths, strict=True):
        librosa.feature.mfcc(y=waveform[:length], sr=rate)
    seconds["librosa mfcc"] = time.perf_counter() - start
    return {name: np.asarray(value) for name, value in seconds.items()}


def _folds(key, sets: Arrays, corpus: SpeechCorpus) -> Arrays:
    """Return the speaker of every row by each set and route, and the correlations."""
    sentences = np.unique(corpus.sentence)
    shuffled = np.asarray(jax.random.permutation(key, len(sentences)))
    folds = min(FOLDS, len(sentences))
    fold = (shuffled % folds)[np.searchsorted(sentences, corpus.sentence)]
    speakers = len(corpus.speakers)
    routes = {"templates": speech.match_templates, "lda": speech.identify_speakers}
    results: Arrays = {"fold": fold}
    for name in SETS:
        for route, method in routes.items():
            # Of one set all folds are of one or two shapes.
            classify = jax.jit(functools.partial(method, speakers=speakers))
            label = np.zeros(len(fold), int)
            score = np.zeros((len(fold), speakers), np.float32)
            for k in range(folds):
                train, test = fold != k, fold == k
                rows = sets[name]
                result = classify(rows[train], corpus.speaker[train], rows[test])
                label[test], score[test] = result.label, result.score
            results[f"{name}/{route}"] = label
            if route == "templates":
                results[f"{name}/correlation"] = score
    return results


def _surrogates(key, waveforms, lengths, rate, count) -> Arrays:
    """Return h(q) and spectra of one utterance a speaker, and of surrogates of the first."""
    # A power of two, for the hundreds of transforms and sorts of each IAAFT surrogate.
    samples = 1 << (min(int(lengths.min()), SURROGATE_SAMPLES).bit_length() - 1)
    waveforms = _dithered(key, waveforms, lengths)[:, :samples]
    scales = multifractal.default_scales(samples, minimum=rate // 1000, maximum=rate * 64 // 1000)
    analyze = functools.partial(multifractal.mfdfa, scales=scales)
    own = jax.vmap(analyze)(waveforms)
    spectra = {"q": own.q[0], "h": own.h, "alpha": own.alpha, "f": own.f, "width": own.width}
    iaaft = functools.partial(surrogates.iaaft, max_iterations=100)
    for name, make in {"shuffled": surrogates.shuffle, "IAAFT": iaaft}.items():
        key, use = jax.random.split(key)

        # x is an argument: as a constant XLA would spend seconds on folding its sort.
        @jax.jit
        def analyze_all(x, keys, make=make):
            return jax.lax.map(lambda k: analyze(make(k, x)), keys)

        result = analyze_all(waveforms[0], jax.random.split(use, count))
        spectra |= {f"{name} h": result.h, f"{name} width": result.width}
    return {name: np.asarray(value) for name, value in spectra.items()}


def _report(corpus: SpeechCorpus, repeats, timing: Arrays, bands: Arrays) -> Report:
    chance = float(np.bincount(corpus.speaker).max() / len(corpus.speaker))
    accuracy = {
        name: {route: _accuracies(repeats, f"{name}/{route}", corpus.speaker) for route in ROUTES}
        for name in SETS
    }
    table = Table(
        f"Accuracy, mean ± deviation over {len(repeats)} x {FOLDS} folds of unheard sentences; "
        f"chance {chance:.3f}",
        ("features", *ROUTES.values()),
        tuple((SETS[n], *(mean_and_deviation(accuracy[n][r], 3) for r in ROUTES)) for n in SETS),
    )
    seconds = {name: float(value) for name, value in timing.items()}
    timing_table = Table(
        f"Seconds for {len(corpus.speaker[:TIMED])} utterances in one compiled call",
        ("what", "seconds"),
        tuple((name, f"{value:.2f}") for name, value in seconds.items()),
    )
    confusion = np.zeros((len(corpus.speakers),) * 2, int)
    for repeat in repeats:
        np.add.at(confusion, (corpus.speaker, repeat["surface3/lda"]), 1)
    widths = {n: float(np.mean(bands[f"{n} width"])) for n in ("shuffled", "IAAFT")}
    return Report(
        method="speech",
        title="Multifractal speaker identification",
        parts=(
            f"Data: {corpus.source}. The spectrum alone is the published route; the whole "
            "ln F surface keeps what its few parameters discard.",
            table,
            _accuracy_figure(accuracy, chance),
            _confusion_figure(confusion, corpus.speakers),
            _correlation_figure(repeats[0]["spectrum/correlation"], corpus),
            _spectrum_figure(bands, corpus.speakers),
            "Surrogates tell where multifractality comes from: shuffling keeps the "
            "distribution of the samples only, IAAFT keeps it and the power spectrum. Width of "
            f"the first speaker's spectrum: {float(bands['width'][0]):.2f}, shuffled "
            f"{widths['shuffled']:.2f}, IAAFT {widths['IAAFT']:.2f}.",
            timing_table,
            "Speaker and recording session cannot be told apart in a corpus with one session a "
            "speaker, and several feature sets were compared on the same folds.",
        ),
        results={
            "source": corpus.source,
            "chance": chance,
            "accuracy": {
                n: {
                    r: {"mean": a.mean(), "sd": a.std(ddof=1), "folds": a}
                    for r, a in routes.items()
                }
                for n, routes in accuracy.items()
            },
            "confusion": confusion,
            "parameters": SPECTRUM,
            "surrogate widths": {n: bands[f"{n} width"] for n in widths},
            "timing": seconds,
        },
    )


def _accuracies(repeats, name, speaker) -> np.ndarray:
    """Return the accuracy of every fold of every repeat."""
    return np.array(
        [
            np.mean(repeat[name][repeat["fold"] == k] == speaker[repeat["fold"] == k])
            for repeat in repeats
            for k in np.unique(repeat["fold"])
        ]
    )


def _accuracy_figure(accuracy, chance) -> Figure:
    values = {label: [accuracy[n][r].mean() for n in SETS] for r, label in ROUTES.items()}
    errors = {label: [accuracy[n][r].std(ddof=1) for n in SETS] for r, label in ROUTES.items()}
    picture = plots.bars(values, errors, list(SETS.values()), label="accuracy", chance=chance)
    return Figure("accuracy", "Accuracy of every feature set by both routes.", picture)


def _confusion_figure(confusion, speakers) -> Figure:
    picture = plots.matrix(
        confusion, speakers, speakers, x="found", y="speaker", limits=(0, int(confusion.max()))
    )
    return Figure("confusion", "Confusion matrix: ln F surface of three views, LDA.", picture)


def _correlation_figure(correlation, corpus) -> Figure:
    order = np.argsort(corpus.speaker, kind="stable")
    names = [corpus.speakers[s] for s in corpus.speaker[order]]
    picture = plots.matrix(
        correlation[order],
        names,
        corpus.speakers,
        x="template",
        y="utterance of",
        limits=(-1, 1),
        write=False,
    )
    return Figure(
        "correlation", "Correlation of spectrum parameters, utterances by templates.", picture
    )


def _spectrum_figure(bands, speakers) -> Figure:
    spectra = dict(zip(speakers, zip(bands["alpha"], bands["f"], strict=True), strict=True))
    band = {
        f"{name}, 5 to 95%": (bands["q"], *np.quantile(bands[f"{name} h"], (0.05, 0.95), axis=0))
        for name in ("shuffled", "IAAFT")
    }
    picture = plots.curves(
        [
            {"title": "one utterance a speaker", "lines": spectra, "x": "alpha", "y": "f"},
            {
                "title": f"{speakers[0]} and surrogates",
                "lines": {speakers[0]: (bands["q"], bands["h"][0])},
                "bands": band,
                "x": "q",
                "y": "h(q)",
            },
        ]
    )
    return Figure("spectra", "Spectra f(alpha), and h(q) with surrogate bands.", picture)
