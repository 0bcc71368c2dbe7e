"""Bengali speech of last resort: short everyday sentences in synthesised voices."""

import hashlib
import logging
import os

import numpy as np

from jaxml.data.audio import resample
from jaxml.data.sources import espeak
from jaxml.files.errors import DataError
from jaxml.files.npz import read_npz
from jaxml.files.paths import expanded
from jaxml.files.write import whole_file

VOICES = ("bn+m1", "bn+m3", "bn+m7", "bn+f1", "bn+f2", "bn+f4")


def spoken_by_voices(rate: int) -> dict[str, np.ndarray]:
    """Return every sentence in every voice, made once and kept in the user's cache folder.

    Args:
      rate: samples a second.

    Returns:
      `audio` int16 `[samples]`, all utterances joined; `offsets` `[utterances + 1]`; and of
      each utterance `speaker`, the voice, and `text`, the number of the sentence.

    Raises:
      DataError: the synthesiser is missing or fails.
    """
    recipe = hashlib.sha256(repr((SENTENCES, VOICES, rate)).encode()).hexdigest()[:12]
    try:
        cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except DataError:  # There is no home to keep it in.
        return _speak(rate)
    kept = cache / "jaxml" / f"bengali-{recipe}.npz"
    try:
        return read_npz(kept)
    except (OSError, ValueError):
        arrays = _speak(rate)
    try:
        with whole_file(kept) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        logging.getLogger(__name__).warning("%s: not kept for the next time (%s)", kept, error)
    return arrays


def _speak(rate):
    spoken, own_rate = espeak.synthesise(SENTENCES, VOICES)
    waveforms = (resample(w.astype(np.float32), own_rate, rate) for w in spoken)
    samples = [np.clip(np.round(w), -32768, 32767).astype(np.int16) for w in waveforms]
    return {
        "audio": np.concatenate(samples),
        "offsets": np.cumsum([0, *(len(w) for w in samples)]),
        "speaker": np.repeat(VOICES, len(SENTENCES)),
        "text": np.tile(np.arange(len(SENTENCES)), len(VOICES)),
    }


SENTENCES = (
    "আমি আজ সকালে বাজারে গিয়েছিলাম।",
    "আকাশে অনেক মেঘ জমেছে।",
    "তুমি কি আমার সঙ্গে যাবে?",
    "নদীর জল খুব ঠান্ডা।",
    "মা রান্নাঘরে ভাত রাঁধছেন।",
    "ছেলেটি মাঠে ফুটবল খেলছে।",
    "আমাদের গ্রামে একটি বড় পুকুর আছে।",
    "কাল সারা রাত বৃষ্টি হয়েছে।",
    "বইটি টেবিলের উপরে রাখো।",
    "সে প্রতিদিন ভোরে ঘুম থেকে ওঠে।",
    "এই রাস্তাটি স্টেশনের দিকে গেছে।",
    "আমার ভাই কলকাতায় থাকে।",
    "পাখিরা গাছের ডালে গান গাইছে।",
    "দরজাটা বন্ধ করে দাও।",
    "আজ স্কুলে ছুটি ছিল।",
    "তার কথা আমি ভুলিনি।",
    "গরম চা খেতে ভালো লাগে।",
    "মেয়েটি সুন্দর ছবি আঁকে।",
    "ট্রেন এক ঘণ্টা দেরিতে এল।",
    "বাগানে লাল গোলাপ ফুটেছে।",
    "আমরা সবাই একসঙ্গে খেতে বসলাম।",
    "দাদু রোজ খবরের কাগজ পড়েন।",
    "শীতকালে দিন ছোট হয়।",
    "তোমার নাম কী?",
    "দোকানে তাজা মাছ পাওয়া যায়।",
    "চাঁদের আলোয় পথ দেখা যাচ্ছে।",
    "সে ধীরে ধীরে সিঁড়ি দিয়ে নামল।",
    "আমাকে এক গ্লাস জল দাও।",
    "কৃষক মাঠে ধান কাটছে।",
    "গল্পটা শুনে সবাই হেসে উঠল।",
    "ঘড়িতে এখন দশটা বাজে।",
    "নৌকা নদী পার হয়ে গেল।",
    "শিক্ষক আমাদের অঙ্ক শেখান।",
    "এখানে আগে একটা পুরনো বাড়ি ছিল।",
    "বিড়ালটা জানালার পাশে ঘুমোচ্ছে।",
    "আগামী সপ্তাহে আমার পরীক্ষা।",
    "হাওয়ায় পাতা উড়ে যাচ্ছে।",
    "চিঠিটা কাল ডাকে দিয়েছি।",
    "বাবা অফিস থেকে ফিরে এসেছেন।",
    "মেলায় অনেক লোকের ভিড় হয়েছিল।",
)
