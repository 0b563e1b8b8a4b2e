"""What the languages of a title share, what goes into a batch of the network, and products of equal bytes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from talklip_ray.config import DubConfig
from talklip_ray.media.picture import Picture
from talklip_ray.pipeline.catalog import titles_text
from talklip_ray.pipeline.compose import Compose
from talklip_ray.pipeline.generate import Generate
from talklip_ray.pipeline.listen import Listen
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.plan import Plan, title_row
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.run import Run
from talklip_ray.records import SILENT, Dub, Row, Segment, SyncMode, Title, Verdict
from tests.elsewhere import said
from tests.pipeline.conftest import Made
from tests.talking import settings, small_dub

SAYS = {"en": "Never mind the weather over there.", "it": "Domani andiamo al mare con tutta la famiglia."}
"""One shorter than the picture, so that languages differ in the faces they show."""


@pytest.fixture(scope="module")
def title(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Title:
    """The title of all stages' tests in three languages."""
    folder = tmp_path_factory.mktemp("dubs")
    for language, says in SAYS.items():
        small_dub(folder / f"{language}.wav", says=says, voice=language)
    added = tuple(Dub(language=language, audio=str(folder / f"{language}.wav")) for language in SAYS)
    one = one_title(str(made.video), str(made.audio), SyncMode.CUT_OFF)
    return replace(one, dubs=(replace(one.dubs[0], language="fr"), *added))


def only(title: Title, *languages: str) -> Title:
    return replace(title, dubs=tuple(dub for dub in title.dubs if dub.language in languages))


def config(made: Made, *, deterministic: bool = True) -> DubConfig:
    return settings(made.weights, plan__segment_seconds="1.1", generate__deterministic=str(deterministic))


@pytest.fixture(params=[False, True], ids=["", "deterministic"])
def run(request: pytest.FixtureRequest, made: Made, tmp_path: Path) -> Run:
    return prepare_run(config(made, deterministic=request.param), str(tmp_path / "out"))


def heard(run: Run, title: Title) -> list[Row]:
    return list(Listen(run)(list(Locate(run)(list(Plan(run)([title_row(title)]))))))


def by_language(rows: Iterable[Row]) -> dict[tuple[str, int], np.ndarray]:
    """Patches by language and first frame of the segment."""
    found = {}
    for row in rows:
        segment = Segment.from_json(row["segment"])
        for placement, patches_TSSC in zip(segment.placements, row["patches_PTSSC"], strict=True):
            found[placement.language, segment.start] = patches_TSSC
    return found


def test_segments_and_languages_together_get_the_patches_they_get_alone(run: Run, title: Title) -> None:
    generate = Generate(run)
    together = by_language(generate(heard(run, title)))
    alone = {}
    for language in ("fr", "en", "it"):
        for row in heard(run, only(title, language)):
            alone |= by_language(generate([row]))
    assert together.keys() == alone.keys()
    for key, patches_TSSC in together.items():
        np.testing.assert_array_equal(patches_TSSC, alone[key])
    assert not np.array_equal(together["fr", 0], together["it", 0])


def test_only_faces_that_have_something_to_say_are_painted(run: Run, title: Title) -> None:
    rows, some, all_of_them = heard(run, title), 0, 0
    for before, after in zip(rows, Generate(run)(rows), strict=True):
        says_PT = (before["steps_PT"] != SILENT) & (before["verdicts_T"] == Verdict.FACE)
        np.testing.assert_array_equal(after["patches_PTSSC"].any(axis=(2, 3, 4)), says_PT)
        some, all_of_them = some + int(says_PT.sum()), all_of_them + says_PT.size
    assert 0 < some < all_of_them


def painted_from(generate: Generate, rows: list[list[Row]]) -> list[str]:
    """Digests of every batch that the generator is given, voice and face together, row batch by row batch."""
    digests = []

    def note(_: torch.nn.Module, given: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
        tensors = [given[0], *given[1]]
        digests.append(hashlib.sha256(b"".join(t.float().numpy().tobytes() for t in tensors)).hexdigest())

    hook = generate.repaint.network.generator.register_forward_pre_hook(note)
    for some in rows:
        list(generate(some))
    hook.remove()
    return digests


def test_what_makes_a_batch_depends_on_neither_neighbours_nor_other_languages(
    made: Made, tmp_path: Path, title: Title
) -> None:
    """Rounding may depend on the whole of a batch, so its whole must be the same. Without the setting it is not."""
    for deterministic in (True, False):
        run = prepare_run(config(made, deterministic=deterministic), str(tmp_path / "out"))
        generate = Generate(run)
        rows = heard(run, title)
        at_once, one_by_one = painted_from(generate, [rows]), painted_from(generate, [[row] for row in rows])
        assert (at_once == one_by_one) is deterministic
        alone = painted_from(generate, [heard(run, only(title, "en"))])
        assert (set(alone) <= set(at_once)) is deterministic


def test_a_frame_is_decoded_and_copied_once_for_all_languages(
    run: Run, title: Title, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("copy", "__init__"):
        monkeypatch.setattr(Picture, name, counting(getattr(Picture, name), calls, name))
    for row in list(Generate(run)(heard(run, title))):
        says_T = ((row["steps_PT"] != SILENT) & (row["verdicts_T"] == Verdict.FACE)).any(axis=0)
        calls.clear()
        list(Compose(run)([row]))
        assert calls == {"__init__": len(says_T) + int(says_T.sum()), "copy": int(says_T.sum())}


def counting(method: Callable[..., Any], calls: Counter[str], name: str) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        calls[name] += 1
        return method(*given, **named)

    return counted


def products(output: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.glob("title/*.mp4")}


def dub_elsewhere(made: Made, output: Path, title: Title) -> None:
    """In a process of its own, with more threads than this one has."""
    code = f"""
        from pathlib import Path
        from talklip_ray.pipeline.one import dub_here
        from talklip_ray.pipeline.catalog import titles_of
        from talklip_ray.pipeline.preflight import prepare_run
        from tests.talking import settings
        config = settings(Path({str(made.weights)!r}), plan__segment_seconds="1.1", generate__deterministic="true")
        dub_here(prepare_run(config, {str(output)!r}), next(titles_of({titles_text([title])!r})))
    """
    said(code, OMP_NUM_THREADS="2")


def test_products_are_the_same_bytes_in_another_process_and_whatever_was_done_before(
    made: Made, tmp_path: Path, title: Title
) -> None:
    dub_here(prepare_run(config(made), str(tmp_path / "together")), title)
    wanted = products(tmp_path / "together")
    assert wanted.keys() == {"fr", "en", "it"}
    dub_elsewhere(made, tmp_path / "elsewhere", title)
    assert products(tmp_path / "elsewhere") == wanted
    for language in ("it", "en", "fr"):
        dub_here(prepare_run(config(made), str(tmp_path / "apart")), only(title, language))
    assert products(tmp_path / "apart") == wanted
    run = prepare_run(config(made), str(tmp_path / "resumed"))
    *_, row = Generate(run)(heard(run, only(title, "fr", "it")))
    list(Compose(run)([row]))
    summary = dub_here(run, title)
    assert summary.reused_parts == 2
    assert products(tmp_path / "resumed") == wanted
