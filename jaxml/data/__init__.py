"""Data at the edge of the library: the user's own, what can be fetched, what packages ship."""

from jaxml.data.audio import load_audio as load_audio
from jaxml.data.audio import load_series as load_series
from jaxml.data.brain import BrainPair as BrainPair
from jaxml.data.brain import load_brain_pair as load_brain_pair
from jaxml.data.errors import DataError as DataError
from jaxml.data.images import ImageSet as ImageSet
from jaxml.data.images import load_images as load_images
from jaxml.data.images import load_pool as load_pool
from jaxml.data.speech import SpeechCorpus as SpeechCorpus
from jaxml.data.speech import load_speech_corpus as load_speech_corpus
from jaxml.data.volume import Volume as Volume
from jaxml.data.volume import load_volume as load_volume

__all__ = [
    "BrainPair",
    "DataError",
    "ImageSet",
    "SpeechCorpus",
    "Volume",
    "load_audio",
    "load_brain_pair",
    "load_images",
    "load_pool",
    "load_series",
    "load_speech_corpus",
    "load_volume",
]
