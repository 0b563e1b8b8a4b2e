"""The driver's book: every title and language ends in exactly one state."""

from dataclasses import replace
from fractions import Fraction

from talklip_ray.pipeline.assemble import Done
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.records import Dub, Failure, Part, PictureFormat, Placement, Title, dump

FORM = PictureFormat(
    width=64,
    height=48,
    rotation=0,
    mirrored=False,
    pix_fmt="yuv420p",
    primaries=2,
    trc=2,
    space=2,
    range=0,
    aspect=Fraction(1),
    rate=Fraction(25),
    time_base=Fraction(1, 25),
    origin=Fraction(0),
)


def title(id="t", languages=("fr", "de")):
    return Title(id=id, video="/v.mp4", dubs=tuple(Dub(language=name, audio="/a.wav") for name in languages))


def book_of(*titles):
    return Ledger(Catalog.of(titles))


def part(language="fr", *, index=0, parts=1):
    placement = Placement(
        language=language,
        audio="/a.wav",
        audio_etag="e",
        offset=Fraction(0),
        audible=Fraction(1),
        pad=False,
        fingerprint="f",
        parts=parts,
        stop=25,
        end_pts=25,
    )
    return Part(
        title="t",
        video="/v.mp4",
        video_etag="e",
        index=index,
        uri=f"/p/{index}",
        num_frames=25,
        num_bytes=9,
        verdicts={"face": 25},
        placement=placement,
        format=FORM,
    )


def row(*, segment="x", failures=(), skipped=(), parts=(), seconds="{}"):
    return {
        "segment": segment,
        "failures": dump(list(failures)),
        "skipped": dump(list(skipped)),
        "parts": dump(list(parts)),
        "seconds": seconds,
    }


def lost(language="fr"):
    return Failure(title="t", language=language, stage="compose", kind="MediaError", message="m")


def done(language="fr"):
    return Done(title="t", language=language, uri="/o", num_frames=25, num_bytes=9, seconds=1.0, verdicts={}, busy=0.5)


def test_a_title_is_ready_once_when_its_last_part_arrives_and_parts_survive_the_trip():
    book = book_of(title())
    first, second = part(index=0, parts=2), part(index=1, parts=2)
    assert book.take(row(parts=[first])) == []
    assert book.take(row(parts=[second])) == [[first, second]]


def test_a_part_that_is_made_twice_counts_once():
    book = book_of(title())
    assert book.take(row(parts=[part(index=0, parts=2)])) == []
    assert book.take(row(parts=[part(index=0, parts=2)])) == []


def test_a_failed_language_does_not_touch_its_sibling():
    book = book_of(title())
    book.take(row(failures=[lost("fr")], parts=[part("de")]))
    book.finish(done("de"))
    assert book.counts() == {"pending": 0, "done": 1, "skipped": 0, "deferred": 0, "failed": 1, "rejected_rows": 0}


def test_parts_of_a_failed_language_are_not_assembled():
    book = book_of(title())
    book.take(row(failures=[lost("fr")]))
    assert book.take(row(parts=[part("fr")])) == []


def test_a_failure_without_language_fails_them_all_and_no_other_title():
    book = book_of(title(), title("u"))
    book.fail(replace(lost(), language=""))
    assert {(row["title"], row["language"], row["state"]) for row in book.rows()} == {
        ("t", "fr", "failed"),
        ("t", "de", "failed"),
        ("u", "fr", "pending"),
        ("u", "de", "pending"),
    }


def test_what_never_came_back_is_a_dead_letter_not_a_silence():
    book = book_of(title(languages=("fr",)))
    book.take(row(parts=[part(index=0, parts=2)]))
    book.close()
    assert [(f.kind, f.retryable) for f in book.letters()] == [("Lost", True)]


def test_stage_seconds_add_up_over_rows():
    book = book_of(title())
    book.take(row(seconds='{"locate": 1.5}'))
    book.take(row(seconds='{"locate": 2.0, "compose": 1.0}'))
    book.finish(done())
    assert dict(book.stage_seconds) == {"locate": 3.5, "compose": 1.0, "assemble": 0.5}


def test_what_a_deadline_puts_off_is_no_failure():
    book = book_of(title(), title(id="u"))
    book.take(row(segment="", skipped=[{"title": "u", "language": "fr", "state": "deferred"}]))
    book.finish(done("fr"))
    book.close(deferred=True)
    assert list(book.letters()) == []
    assert (book.counts()["deferred"], book.counts()["done"]) == (3, 1)
