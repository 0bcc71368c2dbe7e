"""Data at the edge of the library: the user's own, what can be fetched, what packages ship."""

from jaxml.data.audio import load_audio as load_audio
from jaxml.data.audio import load_series as load_series
from jaxml.data.brain import BrainPair as BrainPair
from jaxml.data.brain import load_brain_pair as load_brain_pair
from jaxml.data.images import ImageSet as ImageSet
from jaxml.data.images import load_images as load_images
from jaxml.data.images import load_pool as load_pool
from jaxml.data.points import load_points as load_points
from jaxml.data.questions import ChoiceQuestion as ChoiceQuestion
from jaxml.data.questions import Passage as Passage
from jaxml.data.questions import Question as Question
from jaxml.data.questions import load_choice_questions as load_choice_questions
from jaxml.data.questions import load_passages as load_passages
from jaxml.data.questions import load_questions as load_questions
from jaxml.data.rows import read_rows as read_rows
from jaxml.data.speech import SpeechCorpus as SpeechCorpus
from jaxml.data.speech import load_speech_corpus as load_speech_corpus
from jaxml.data.text import TextCorpus as TextCorpus
from jaxml.data.text import chunk_tokens as chunk_tokens
from jaxml.data.text import load_books as load_books
from jaxml.data.text import load_texts as load_texts
from jaxml.data.volume import Volume as Volume
from jaxml.data.volume import load_labels as load_labels
from jaxml.data.volume import load_volume as load_volume
from jaxml.files.errors import DataError as DataError
