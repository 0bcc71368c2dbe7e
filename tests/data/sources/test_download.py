import functools
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxml.data import DataError
from jaxml.data.sources import download
from jaxml.data.sources.download import fetch


def test_tfds_knows_one_archive_of_cifar10():
    import tensorflow_datasets as tfds

    (url,) = tfds.builder_cls("cifar10").url_infos
    assert url.endswith("cifar-10-binary.tar.gz")


def test_tfds_fetches_once_and_without_tensorflow(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    content = b"any archive"
    (tmp_path / "v1.tar.gz").write_bytes(content)
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
            download._serve("cifar10", tmp_path / "downloads")
            printed = capsys.readouterr().out.strip().splitlines()[-1]
            with open(printed, "rb") as fetched:
                assert fetched.read() == content
        server.shutdown()
    assert asked == ["/v1.tar.gz"]
    assert "tensorflow" not in sys.modules


def test_stalled_download_is_ended_in_time_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # A proxy that takes the connection and never answers: what a bad network looks like.
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DataError, match="TFDS cifar10: nothing arrived for 3 s"):
            fetch("cifar10", 3.0)
        assert 3 <= time.monotonic() - start < 15
    assert [path for path in tmp_path.rglob("*") if path.is_file() or ".tmp." in path.name] == []


def test_bytes_that_keep_arriving_are_waited_for(tmp_path, monkeypatch):
    """A download may last longer than the limit: only a stall ends it."""
    trickle = (
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1], 'cifar10', 'x.tmp.1')\n"
        "folder.mkdir(parents=True)\n"
        "for k in range(20): (folder / 'a').write_bytes(b'x' * (k + 1)); time.sleep(0.2)\n"
        "print('some.tar.gz')\n"
    )
    (tmp_path / "child.py").write_text(trickle)
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/child.py "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert fetch("cifar10", 2.5).name == "some.tar.gz"


def test_modules_where_it_is_started_are_not_imported(tmp_path, monkeypatch):
    """That may be a folder of data, with files of anyone."""
    (tmp_path / "tensorflow_datasets.py").write_text("print('from here')")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DataError, match="nothing arrived"):
            fetch("cifar10", 3.0)


def test_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "tensorflow_datasets.py").write_text("raise ImportError('no tfds here')")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="TFDS cifar10: ImportError: no tfds here"):
        fetch("cifar10", 20.0)


def test_the_processes_that_fetch_and_speak_start_without_jax():
    names = "jaxml.data.sources.download, jaxml.data.sources.espeak"
    code = f"import sys, {names}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
