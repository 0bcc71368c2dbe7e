"""Speaker identification from speech: multifractal and cepstral features, two classifiers."""

from jaxml.speech.features import mfcc as mfcc
from jaxml.speech.features import mfcc_summary as mfcc_summary
from jaxml.speech.identify import Identification as Identification
from jaxml.speech.identify import correlation_matrix as correlation_matrix
from jaxml.speech.identify import identify as identify
from jaxml.speech.identify import match_templates as match_templates
from jaxml.speech.surface import UtteranceFeatures as UtteranceFeatures
from jaxml.speech.surface import utterance_features as utterance_features
from jaxml.speech.waveform import dither as dither
from jaxml.speech.waveform import trim_silence as trim_silence
