"""Speech synthesised by the espeak-ng library that the package espeakng_loader ships.

The library keeps hidden state between utterances, so synthesis runs in a process of its own
and in one fixed order: the same call gives the same samples, and a crash of C code is an
error, not the end of the caller. `python -m jaxml.data.sources.espeak FOLDER` is that process.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from jaxml.data.sources.download import own_paths
from jaxml.files.errors import DataError

RETRIEVAL_SYNCHRONOUS = 2
DO_NOT_EXIT = 0x8000
UTF8 = 1
POSITION_CHARACTER = 1
SECONDS = 300


def synthesise(
    sentences: Sequence[str], voices: Sequence[str]
) -> tuple[list[Int16[np.ndarray, " time"]], int]:
    """Return every sentence in every voice.

    Args:
      sentences: texts in the language of the voices.
      voices: names of espeak-ng, a language or one of its variants: "bn", "bn+f2".

    Returns:
      16-bit waveforms, all sentences of the first voice first, and their rate in Hz.

    Raises:
      DataError: espeakng_loader is not installed or its library fails, with its own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.npz")
        request.write_text(json.dumps([list(sentences), list(voices)]))
        try:
            child = subprocess.run(
                [sys.executable, "-P", "-m", "jaxml.data.sources.espeak", folder],
                env={**os.environ, "PYTHONPATH": own_paths()},
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"espeak-ng: no answer within {SECONDS} s") from error
        if child.returncode or not answer.exists():
            words = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
            raise DataError(f"espeak-ng: {words}; install a working espeakng_loader")
        with np.load(answer, allow_pickle=False) as arrays:
            return np.split(arrays["audio"], arrays["offsets"][1:-1]), int(arrays["rate"])


def _serve(folder: Path) -> None:
    """Answer `request.json` by `answer.npz` in the same folder."""
    sentences, voices = json.loads(Path(folder, "request.json").read_text())
    speak, rate = _open()
    waveforms = [speak(sentence, voice) for voice in voices for sentence in sentences]
    np.savez(
        Path(folder, "answer.npz"),
        audio=np.concatenate(waveforms),
        offsets=np.cumsum([0, *(len(w) for w in waveforms)]),
        rate=rate,
    )


def _open():
    """Return the function from sentence and voice to samples, and their rate."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    # The library cuts a path at 160 characters, silently; a relative one is always short.
    os.chdir(Path(espeakng_loader.get_data_path()).parent)
    rate = library.espeak_Initialize(RETRIEVAL_SYNCHRONOUS, 0, b".", DO_NOT_EXIT)
    if rate <= 0:
        raise RuntimeError("the library does not find its data")
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def speak(sentence, voice):
        chunks.clear()
        # Set here also to keep it alive as long as this function: C holds no reference.
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"no voice '{voice}'")
        text = sentence.encode()
        size = ctypes.c_size_t(len(text) + 1)
        failed = library.espeak_Synth(text, size, 0, POSITION_CHARACTER, 0, UTF8, None, None)
        if failed or not chunks:
            raise RuntimeError(f"voice '{voice}' gave no sound for '{sentence}'")
        return np.concatenate(chunks)

    return speak, rate


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
