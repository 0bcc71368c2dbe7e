"""Data at the edge of the library: the user's own, what can be fetched, what packages ship."""

from jaxml.data.audio import load_audio as load_audio
from jaxml.data.audio import load_series as load_series
from jaxml.data.errors import DataError as DataError
from jaxml.data.speech import SpeechCorpus as SpeechCorpus
from jaxml.data.speech import load_speech_corpus as load_speech_corpus

__all__ = ["DataError", "SpeechCorpus", "load_audio", "load_series", "load_speech_corpus"]
