"""Speaker identification from speech: multifractal and cepstral features, two classifiers."""

from jaxml.speech._features import mfcc as mfcc
from jaxml.speech._features import mfcc_summary as mfcc_summary
from jaxml.speech._identify import Identification as Identification
from jaxml.speech._identify import correlation_matrix as correlation_matrix
from jaxml.speech._identify import identify_speakers as identify_speakers
from jaxml.speech._identify import match_templates as match_templates
from jaxml.speech._surface import UtteranceFeatures as UtteranceFeatures
from jaxml.speech._surface import utterance_features as utterance_features
from jaxml.speech._waveform import dither as dither
from jaxml.speech._waveform import trim_silence as trim_silence
