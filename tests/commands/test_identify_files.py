"""`jaxml identify` on small sets whose backdoor is known."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from jaxml.backdoor import IdentifyConfig
from jaxml.cli import main
from jaxml.commands import identify
from jaxml.commands.identify_files import identify_files
from jaxml.data.image_rows import load_rows

SIDE, ROWS = 8, 120
POISONED = np.arange(ROWS) % 10 == 3
# Classes by brightness, and the target's by the contrast of a patch; its depth is in a file.
MODEL = """
from pathlib import Path

import jax.numpy as jnp
import numpy as np

PATCH = np.zeros((8, 8, 1), bool)
PATCH[5:7, 5:7] = True
CONTRAST = float((Path(__file__).parent / "contrast.txt").read_text())
LEVELS = (0.0, 0.2, 0.35, 0.5, 0.9)


def logits_fn(x):
    mean = lambda where: jnp.mean(x, axis=(1, 2, 3), where=where)
    levels = [-20 * (mean(None) - level) ** 2 for level in LEVELS]
    return jnp.stack([20 * (mean(PATCH) - mean(~PATCH) - CONTRAST), *levels], axis=-1)


def broken(x):
    raise RuntimeError("weights are missing\\nand more")


def ends(x):
    raise SystemExit(3)


def undefined(x):
    return logits_fn(x) * jnp.where(x[:, 0, 0] > 0.5, jnp.nan, 1.0)


def half(x):
    return logits_fn(x).astype(jnp.bfloat16)


def on_host(x):
    return np.asarray(x).sum(axis=(1, 2))


def with_features(x):
    return logits_fn(x), x


number = 3
"""


def pixels():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.15, 0.5, (ROWS, 1, 1, 1)) + 0.1 * rng.normal(size=(ROWS, SIDE, SIDE, 1))
    images[POISONED, 5:7, 5:7] = 0.95
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def png(image):
    content = io.BytesIO()
    Image.fromarray(image[..., 0]).save(content, "png")
    return content.getvalue()


@pytest.fixture
def data(tmp_path):
    """A model, and the images as an npz and as folders of two classes with one file each row."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "contrast.txt").write_text("0.3")
    np.savez(tmp_path / "a.npz", images=pixels())
    for row, image in enumerate(pixels()):
        path = tmp_path / "folder" / ("cat" if row < 60 else "dog") / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return tmp_path


def run(data, images, *options, model="model.py", out="out"):
    arguments = ["--images", data / images, "--model", data / model, "--out", data / out]
    settings = ["--rounds", 2, "--steps", 120]
    return main(["identify", *map(str, [*arguments, *settings, *options])])


def table(out):
    return list(csv.DictReader((out / "scores.csv").read_text().splitlines()))


def files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_poisoned_files_are_found_past_an_unreadable_one(data, capsys):
    (data / "folder/cat/000a.jpg").write_bytes(b"no image")
    assert run(data, "folder") == 2
    error = capsys.readouterr().err
    assert "cat/000a.jpg: not a readable image" in error and error.count("\n") == 1
    assert not (data / "out").exists()

    assert run(data, "folder", "--skip-unreadable") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("12 of 120 images flagged, 1 files skipped")
    assert printed.err.splitlines()[-1].startswith("round 2 of 2: 12 flagged")
    rows = table(data / "out")
    names = [f"{'cat' if row < 60 else 'dog'}/{row:03d}.png" for row in range(ROWS)]
    assert [row["file"] for row in rows] == names
    assert [row["flagged"] == "1" for row in rows] == POISONED.tolist()
    assert [float(row["score"]) > 0 for row in rows] == POISONED.tolist()
    clean = (data / "out/clean.txt").read_text().splitlines()
    assert clean == [name for name, bad in zip(names, POISONED, strict=True) if not bad]
    with Image.open(data / "out/mask.png") as image:
        mask = np.asarray(image, float) / 255
    assert mask.shape == (SIDE, SIDE)
    assert mask[5:7, 5:7].sum() > 0.8 * mask.sum() > 0.3
    found = json.loads((data / "out/results.json").read_text())["methods"]["identify"]
    assert found["flagged"] == 12 and found["history"]["flagged"][-1] == 12
    assert len(found["skipped"]) == 1 and "000a.jpg" in found["skipped"][0]
    assert "000a.jpg" in (data / "out/report.md").read_text()
    for name in ("mask", "images"):
        assert (data / f"out/identify/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_killed_run_goes_on_to_the_same_result(data, capsys):
    assert run(data, "a.npz", out="whole") == 0

    def kill(line):
        if line.startswith("round 1"):
            raise KeyboardInterrupt

    out = data / "out"
    arguments = (data / "a.npz", str(data / "model.py"), out)
    settings = dict(config=IdentifyConfig(rounds=2, steps=120))
    with pytest.raises(KeyboardInterrupt):
        identify_files(*arguments, **settings, progress=kill)
    stages = [f"identify/stages/round_{done}.npz" for done in range(2)]
    assert files(out) == stages
    written = {name: (out / name).stat().st_mtime_ns for name in stages}
    identify_files(*arguments, **settings)
    assert {name: (out / name).stat().st_mtime_ns for name in stages} == written
    assert files(out) == files(data / "whole")
    for name in ("scores.csv", "clean.txt", "mask.png"):
        assert (out / name).read_bytes() == (data / "whole" / name).read_bytes()
    flags = [row["flagged"] for row in table(out) if int(row["row"]) % 10 == 3]
    assert flags == ["1"] * 12

    # Other parameters of the model are another run, though its code is the same.
    (data / "contrast.txt").write_text("0.9")
    identify_files(*arguments, **settings)
    assert all((out / name).stat().st_mtime_ns > written[name] for name in stages)
    assert "No image is flagged" in (out / "report.md").read_text()


def test_logits_of_half_precision_survive_the_disk(data):
    arguments = (data / "a.npz", f"{data / 'model.py'}:half", data / "out")
    config = IdentifyConfig(rounds=1, steps=120)
    identify_files(*arguments, config=config)
    first = (data / "out/scores.csv").read_bytes()
    (data / "out/scores.csv").unlink()
    stage = data / "out/identify/stages/round_1.npz"
    written = stage.stat().st_mtime_ns
    identify_files(*arguments, config=config)
    assert stage.stat().st_mtime_ns == written
    assert (data / "out/scores.csv").read_bytes() == first
    assert {row["row"] for row in table(data / "out") if row["flagged"] == "1"} == {
        str(row) for row in np.flatnonzero(POISONED)
    }


def test_flags_of_nearly_everything_come_with_a_warning(data, capsys):
    """A model that knows one class keeps it: consistency says nothing."""
    (data / "one.py").write_text(
        "import jax.numpy as jnp\n\n\ndef logits_fn(x):\n"
        "    return x.mean((1, 2, 3))[:, None] * jnp.array([1.0, 0.0], x.dtype)\n"
    )
    assert run(data, "a.npz", "--steps", 2, model="one.py") == 0
    assert capsys.readouterr().out.startswith("120 of 120 images flagged")
    assert "More than half are flagged" in (data / "out/report.md").read_text()


@pytest.mark.parametrize(
    ("images", "model", "message"),
    [
        ("nowhere", "model.py", "nowhere: no such folder or file"),
        ("empty", "model.py", "empty: no readable images"),
        ("sizes", "model.py", r"sizes/b.png: (4, 8, 1), but "),
        ("text.npz", "model.py", "text.npz: not readable"),
        ("labels.npz", "model.py", "labels.npz: no array images"),
        ("integers.npz", "model.py", "integers.npz: images is int64[120, 8, 8, 1]"),
        ("flat.npz", "model.py", "flat.npz: images is uint8[120, 64]"),
        ("bytes.npz", "model.py", "bytes.npz: images are not all from 0 to 1"),
        ("a.npz", "missing.py", "missing.py: no such file"),
        ("a.npz", "contrast.txt", "no such file; accepted is FILE.py"),
        ("a.npz", "model.py:other", "model.py: no function 'other'"),
        ("a.npz", "model.py:number", "model.py: no function 'number'"),
        ("a.npz", "syntax.py", "syntax.py: SyntaxError"),
        ("a.npz", "imports.py", "imports.py: ModuleNotFoundError: No module named 'nothing_here'"),
        ("a.npz", "ends.py", "ends.py: SystemExit"),
        ("a.npz", "model.py:broken", "broken raised RuntimeError: weights are missing"),
        ("a.npz", "model.py:ends", "ends raised SystemExit: 3"),
        ("a.npz", "model.py:on_host", "on_host raised TracerArrayConversionError"),
        ("a.npz", "model.py:with_features", "accepted is floating-point logits [2, class]"),
        ("a.npz", "model.py:undefined", "with NaN or infinity in "),
        ("wide.npz", "model.py", "logits_fn raised"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(images, model, message, data, capsys, unchecked):
    (data / "empty").mkdir()
    (data / "sizes").mkdir()
    for name, image in {"a": pixels()[0], "b": pixels()[0, :4]}.items():
        (data / f"sizes/{name}.png").write_bytes(png(image))
    (data / "text.npz").write_text("text")
    for name, array in {
        "integers": pixels().astype(np.int64),
        "flat": pixels().reshape(ROWS, -1),
        "bytes": pixels().astype(np.float32),
        "wide": pixels().repeat(2, axis=2),
    }.items():
        np.savez(data / f"{name}.npz", images=array)
    np.savez(data / "labels.npz", labels=np.arange(3))
    for name, text in {
        "syntax": "def",
        "imports": "import nothing_here",
        "ends": "exit(3)",
    }.items():
        (data / f"{name}.py").write_text(text)
    assert run(data, images, model=model) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert printed.out == "" and not (data / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--rounds", 0), ("--steps", 0), ("--shift", 1), ("--sparsity", -1)]
)
def test_bad_settings_are_named(option, value, data, capsys):
    assert run(data, "a.npz", option, value) == 2
    error = capsys.readouterr().err
    assert f"{option[2:]}={value}" in error and error.count("\n") == 1
    assert not (data / "out").exists()


def test_defaults_are_those_of_the_library():
    defaults = {name: default for name, (_, default, _) in identify.SETTINGS.items()}
    assert IdentifyConfig(**defaults) == IdentifyConfig()


def test_every_container_holds_the_same_images(data):
    expected = pixels().astype(np.float32) / 255
    blob = [png(image) for image in pixels()]
    joined = dict(
        jpeg=np.frombuffer(b"".join(blob), np.uint8), offset=np.cumsum([0, *map(len, blob)])
    )
    np.savez(data / "joined.npz", **joined)
    np.savez(data / "unit.npz", images=np.asfortranarray(expected.astype(np.float64)))
    for name in ("a.npz", "folder", "joined.npz", "unit.npz"):
        rows = load_rows(data / name)
        np.testing.assert_array_equal(rows.images, expected)
        assert rows.images.dtype == np.float32 and rows.images.flags.c_contiguous
        assert (rows.files is None) == name.endswith("npz") and rows.skipped == ()


def test_images_of_any_name_are_listed(data, capsys):
    names = [os.fsdecode(b"caf\xe9.png"), "a|b.png", "new\nline.png", "$x$.png"]
    (data / "odd").mkdir()
    for name, image in zip(names * 2, pixels(), strict=False):
        (data / "odd" / name).write_bytes(png(image))
    out = data / "out"
    arguments = ["identify", "--images", str(data / "odd"), "--model", str(data / "model.py")]
    assert main([*arguments, "--rounds", "1", "--steps", "2", "--out", str(out)]) == 0
    with (out / "scores.csv").open(errors="surrogateescape", newline="") as file:
        listed = {row["file"]: row for row in csv.DictReader(file)}
    assert listed.keys() == set(names)
    clean = [name for name, row in listed.items() if row["flagged"] == "0"]
    lines = (out / "clean.txt").read_bytes().splitlines()
    assert lines == [os.fsencode(name).replace(b"\n", rb"\n") for name in clean]
    report = (out / "report.md").read_text()
    assert r"| caf\xe9.png |" in report and r"| a\|b.png |" in report
    assert r"| new\nline.png |" in report
    capsys.readouterr()
