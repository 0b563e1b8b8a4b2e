"""A tree of clips as LRS2 lays them out, made here: real mp4, wav, text and boxes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ManifestError, MediaError, NotFoundError
from talklip_ray.faces.detect import Faces
from talklip_ray.media.clipwriter import write_wav
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.training.lrs2 import read_boxes, read_list, read_text
from talklip_ray.training.prepare import Tools
from tests.training.films import RATE, film, kept, pieces_of, portrait, tone

COUNT = 30
NAMES = ("5535415699068794046/00001", "5535415699068794046/00002", "6330311066473698535/00011")
BOX = (56, 40, 112, 112)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips; the face of each is a little further right. The second has no boxes."""
    root = tmp_path_factory.mktemp("lrs2")
    for at, name in enumerate(NAMES):
        path = root / "main" / f"{name}.mp4"
        for folder in (path.parent, root / "boxes" / path.parent.name, root / "audio" / path.parent.name):
            folder.mkdir(parents=True, exist_ok=True)
        face = np.roll(cv2.resize(portrait()[:256, 90:346], (160, 160), interpolation=cv2.INTER_AREA), 8 * at, axis=1)
        film(path, [face] * COUNT)
        write_wav(root / "audio" / f"{name}.wav", tone(COUNT / 25) / 2, RATE)
        path.with_suffix(".txt").write_text(f"Text:  CLIP NUMBER {at}\nConf:  5\n\nWORD START END ASDSCORE\n")
        boxes_N4 = np.tile(np.array(BOX) + np.array([8 * at, 0, 8 * at, 0]), (COUNT, 1))
        if at != 1:
            np.save(root / "boxes" / f"{name}.npy", boxes_N4)
    (root / "main" / "train.txt").write_text(f"{NAMES[0]}\n{NAMES[1]} MV\n\n")
    (root / "test.txt").write_text(f"{NAMES[2]} 0\n")
    return root


@pytest.fixture(scope="module")
def store() -> Store:
    return open_store(StorageConfig())


def blind(image_HWC: np.ndarray) -> Faces:
    raise AssertionError("where there are boxes nobody looks for a face")


def test_a_list_names_the_files_of_each_clip(tree, store):
    rows = read_list(store, str(tree / "main"), "train.txt", boxes=str(tree / "boxes"), audio=str(tree / "audio"))
    assert [row.id for row in rows] == list(NAMES[:2])
    assert all(Path(uri).exists() for uri in rows[0].files)
    assert [Path(uri).suffix for uri in rows[0].files] == [".mp4", ".wav", ".txt", ".npy"]
    (other,) = read_list(store, str(tree / "main"), str(tree / "test.txt"))
    assert (other.id, other.audio, other.boxes) == (NAMES[2], "", "")


def test_a_clip_becomes_a_row_whole_with_its_boxes_its_text_and_its_sound(tree, store):
    (row, _) = read_list(store, str(tree / "main"), "train.txt", boxes=str(tree / "boxes"))
    (piece,) = kept(pieces_of(row, Tools(detector=blind), framing="whole"))
    assert (piece.id, piece.text, piece.num_frames) == (NAMES[0], "CLIP NUMBER 0", COUNT)
    assert (piece.boxes_T4 == BOX).all()
    wanted = cv2.resize(portrait()[:256, 90:346], (160, 160), interpolation=cv2.INTER_AREA)
    assert np.abs(piece.frames_THWC[5].astype(int) - wanted).mean() < 4
    crop = cv2.resize(wanted[BOX[1] : BOX[3], BOX[0] : BOX[2]], (96, 96), interpolation=cv2.INTER_LINEAR)
    assert np.abs(piece.crops_TSSC[5].astype(int) - crop).mean() < 4
    spoken = piece.sound[RATE + 4000 : RATE + 12_000]
    assert np.abs(spoken).max() == pytest.approx(16_384, rel=0.05)


def test_sound_that_was_taken_out_takes_the_place_of_the_clips_own(tree, store):
    (row, _) = read_list(store, str(tree / "main"), "train.txt", boxes=str(tree / "boxes"), audio=str(tree / "audio"))
    (piece,) = kept(pieces_of(row, Tools(detector=blind), framing="whole"))
    assert np.abs(piece.sound[RATE + 4000 : RATE + 12_000]).max() == pytest.approx(8192, rel=0.02)


def test_without_boxes_the_face_is_looked_for(tree, store):
    (row,) = read_list(store, str(tree / "main"), str(tree / "test.txt"))
    (piece,) = kept(pieces_of(row, framing="whole"))
    assert piece.usable_T.all()
    x0, y0, x1, y1 = piece.boxes_T4[10] - np.array([16, 0, 16, 0])
    assert np.abs(np.array([x0, y0, x1, y1]) - BOX).max() < 8


def test_boxes_that_are_missing_or_of_another_clip_fail_that_clip(tree, store):
    (_, row) = read_list(store, str(tree / "main"), "train.txt", boxes=str(tree / "boxes"))
    with pytest.raises(NotFoundError, match=r"00002\.npy"):
        pieces_of(row, Tools(detector=blind), framing="whole")
    with pytest.raises(MediaError, match=rf"numbers \[29,4\], one for each frame, found int64 \({COUNT}, 4\)"):
        read_boxes(store, str(tree / "boxes" / f"{NAMES[0]}.npy"), 29)


def header(shape: str, dtype: str = "'<i8'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(np.zeros((3, 4))),
        header("(3, 4)", "'|O'") + pickle.dumps([1] * 12),
        header("(3, 4)"),
        header("(1000000000000, 4)"),
        header("(3, 4)", "[('a', '<i8')]") + bytes(96),
        header("(3,4)", "__import__('os')") + bytes(96),
        b"\x93NUMPY\x09\x09junk",
        b"",
        header("(3, 4)", "'<f8'") + np.full((3, 4), np.nan).tobytes(),
    ],
)
def test_a_file_that_is_no_boxes_is_refused_and_never_run(data, store, tmp_path):
    (tmp_path / "b.npy").write_bytes(data)
    with pytest.raises(MediaError, match=r"b\.npy: boxes must be a \.npy file of numbers \[3,4\]"):
        read_boxes(store, str(tmp_path / "b.npy"), 3)


def test_boxes_may_be_numbers_of_any_kind(store, tmp_path):
    for kind in ("<i4", "<i8", "<f4", "<u2"):
        data = io.BytesIO()
        np.save(data, np.array([[1, 2, 30, 40]], kind))
        (tmp_path / "b.npy").write_bytes(data.getvalue())
        assert read_boxes(store, str(tmp_path / "b.npy"), 1).tolist() == [[1, 2, 30, 40]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HELLO\n", "its first line must begin with `Text:`"),
        (b"\xff\xfe\x00", "must be UTF-8"),
        (b"Text:  " + b"A" * (5 << 20), "must have at most 4194304 bytes"),
    ],
)
def test_a_text_that_is_none_is_refused(data, words, store, tmp_path):
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(MediaError, match=words):
        read_text(store, str(tmp_path / "t.txt"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one row"),
        ("a/1\n../../etc/passwd\n", r"line 2: a name must be a path below the root .* found '\.\./\.\./etc"),
        ("/etc/passwd\n", "line 1: a name must be a path below"),
        ("s3://bucket/key\n", "line 1: a name must be a path below"),
        ("a/1\na/1\n", "found `a/1` twice"),
        ("caf\xe9", "must be a readable text file"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(text, words, store, tmp_path):
    (tmp_path / "train.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match=words):
        read_list(store, str(tmp_path), "train.txt")
