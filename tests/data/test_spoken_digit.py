import functools
import hashlib
import http.server
import io
import socket
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import soundfile

from jaxml.data import DataError, spoken_digit
from jaxml.data.spoken_digit import load_spoken_digit


def archive(path, names, rate=8000):
    """Write an archive with the layout of the data set's; file k holds 100 + k samples."""
    with tarfile.open(path, "w:gz") as files:
        for k, name in enumerate(names):
            content = io.BytesIO()
            soundfile.write(content, np.full(100 + k, 0.25), rate, format="WAV")
            entry = tarfile.TarInfo(f"free-spoken-digit-dataset-1.0.9/{name}")
            entry.size = content.tell()
            content.seek(0)
            files.addfile(entry, content)
    return path


NAMES = ["recordings/7_theo_10.wav", "recordings/0_anna_1.wav", "extra/0_anna_2.wav"]


def test_reads_recordings_of_the_archive(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tar.gz", NAMES)
    monkeypatch.setattr(spoken_digit, "_fetch", lambda downloads, seconds: path)
    waveforms, speakers, digits = load_spoken_digit(1.0)
    assert (speakers, digits) == (["anna", "theo"], [0, 7])
    assert [len(w) for w in waveforms] == [101, 100]
    np.testing.assert_allclose(waveforms[0], 0.25, atol=1e-4)
    assert waveforms[0].dtype == np.float32


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"not a tar"), "not the archive"),
        (lambda path: archive(path, NAMES[2:]), "no recordings"),
        (lambda path: archive(path, NAMES, 16000), "is not 8000 Hz"),
        (lambda path: archive(path, ["recordings/strange.wav"]), "not the archive"),
        (lambda path: archive(path, NAMES).write_bytes(path.read_bytes()[:150]), "not the archive"),
    ],
)
def test_bad_archive_is_named(tmp_path, monkeypatch, write, message):
    path = tmp_path / "a.tar.gz"
    write(path)
    monkeypatch.setattr(spoken_digit, "_fetch", lambda downloads, seconds: path)
    with pytest.raises(DataError, match=message) as caught:
        load_spoken_digit(1.0)
    assert str(path) in str(caught.value)


def test_tfds_fetches_once_and_without_tensorflow(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    content = archive(tmp_path / "v1.tar.gz", NAMES).read_bytes()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.append(self.path)

    class Builder:
        url_infos = {}

    # The system's proxy settings are not for this host's own server.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1.tar.gz"
        checksum = hashlib.sha256(content).hexdigest()
        Builder.url_infos[url] = UrlInfo(len(content), checksum, "v1.tar.gz")
        monkeypatch.setattr(tfds, "builder_cls", lambda name: Builder)
        for _ in range(2):
            spoken_digit._serve(tmp_path / "downloads")
            printed = capsys.readouterr().out.strip().splitlines()[-1]
            with open(printed, "rb") as fetched:
                assert fetched.read() == content
        server.shutdown()
    assert asked == ["/v1.tar.gz"]
    assert "tensorflow" not in sys.modules


def test_tfds_knows_one_archive_of_this_name():
    import tensorflow_datasets as tfds

    (url,) = tfds.builder_cls(spoken_digit.NAME).url_infos
    assert url.endswith("free-spoken-digit-dataset/archive/v1.0.9.tar.gz")


def test_stalled_download_is_ended_in_time_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # A proxy that takes the connection and never answers: what a bad network looks like.
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DataError, match="nothing arrived for 6 s"):
            load_spoken_digit(6.0)
        assert 6 <= time.monotonic() - start < 15
        silent.settimeout(1)
        silent.accept()[0].close()
    assert [path for path in tmp_path.rglob("*") if path.is_file() or ".tmp." in path.name] == []


def test_bytes_that_keep_arriving_are_waited_for(tmp_path, monkeypatch):
    """A download may last longer than the limit: only a stall ends it."""
    trickle = (
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1], 'spoken_digit', 'x.tmp.1')\n"
        "folder.mkdir(parents=True)\n"
        "for k in range(20): (folder / 'a').write_bytes(b'x' * (k + 1)); time.sleep(0.2)\n"
        "print('some.tar.gz')\n"
    )
    (tmp_path / "child.py").write_text(trickle)
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/child.py "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    found = spoken_digit._fetch(tmp_path / "downloads", 2.5)
    assert found.name == "some.tar.gz"


def test_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "tensorflow_datasets.py").write_text("raise ImportError('no tfds here')")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="TFDS spoken_digit: ImportError: no tfds here"):
        load_spoken_digit(10.0)
