"""Who is told of a run on the driver's side: what a terminal shows, and that no watch can end a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from talklip_ray.errors import StoreError
from talklip_ray.training.watching import Group, ProgressWatch, Report, Watches, group_of


def report(step: int = 10, **changed: object) -> Report:
    metrics = {"l1": 0.25, "frames_per_s": 31.0, "data_wait": 0.02, "elapsed_s": 60.0, "share": 0.1}
    return Report(**{"step": step, "phase": "reconstruct", "metrics": metrics} | changed)  # type: ignore[arg-type]


def shown(*reports: Report, terminal: bool, places: tuple[str, ...] = ()) -> str:
    text = io.StringIO()
    watch = ProgressWatch(Console(file=text, force_terminal=terminal, width=200, color_system=None), places)
    for one in reports:
        watch(one)
    watch.close()
    return text.getvalue()


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("l1", (Group.LOSS, "l1")),
        ("valid_l1", (Group.VALID, "l1")),
        ("critic_grad_norm", (Group.GRAD_NORM, "critic")),
        ("data_wait", (Group.SPEED, "data_wait")),
        ("learning_rate", (Group.RUN, "learning_rate")),
    ],
)
def test_a_metric_says_by_its_name_what_it_is_about(name, group):
    assert group_of(name) == group


def test_without_a_terminal_every_report_is_a_plain_line():
    text = shown(report(5), report(10), terminal=False, places=("page: here",))
    first, *lines = text.splitlines()
    assert first == "page: here"
    assert [line.split("  ")[:3] for line in lines] == [[f"step {n}", "reconstruct", "l1 0.25"] for n in (5, 10)]
    assert "\x1b" not in text


def test_a_terminal_shows_phase_losses_speed_waiting_and_when_it_ends():
    later = report(20, metrics={"l1": 0.125, "frames_per_s": 30.0, "data_wait": 0.5, "elapsed_s": 120.0, "share": 0.4})
    text = shown(report(), later, terminal=True)
    for words in ("step 20", "reconstruct", "l1 0.125", "30 frames/s", "waits 50%", "ETA 0:02:00"):
        assert words in text, words


def test_the_end_is_reckoned_by_the_pace_of_the_last_reports():
    """A tenth of the run took a minute each, then the phases changed and one took ten."""
    quick = [report(n, metrics={"elapsed_s": 60.0 * n, "share": 0.02 * n}) for n in range(1, 21)]
    slow = [report(20 + n, metrics={"elapsed_s": 1200.0 + 600.0 * n, "share": 0.4 + 0.02 * n}) for n in range(1, 11)]
    assert "ETA 3:20:00" in shown(*quick, *slow, terminal=True)


def test_notes_are_said_and_cannot_steer_the_terminal():
    text = shown(report(notes=("row [bold]17[/] \x1b[2J of \x07shard",)), terminal=False)
    assert "step 10: row [bold]17[/] �[2J of �shard" in text


class Broken:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, report: Report) -> None:
        self.asked += 1
        raise StoreError("s3://run/report.html", "no permission to write")

    def close(self, failure: str = "") -> None:
        raise OSError("still none")


class Notebook:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.failure: str | None = None

    def __call__(self, report: Report) -> None:
        self.steps.append(report.step)

    def close(self, failure: str = "") -> None:
        self.failure = failure


def test_a_watch_that_fails_is_complained_of_once_and_the_others_go_on():
    broken, notebook, complaints = Broken(), Notebook(), list[str]()
    watches = Watches([broken, notebook], complaints.append)
    watches(report(1))
    watches(report(2))
    watches.close("gave up")
    assert (notebook.steps, notebook.failure, broken.asked) == ([1, 2], "gave up", 2)
    assert complaints == [
        "Broken cannot follow the run: s3://run/report.html: no permission to write; training goes on"
    ]


def test_a_mistake_of_ours_in_a_watch_is_not_hidden():
    class Mistaken(Notebook):
        def __call__(self, report: Report) -> None:
            raise KeyError("l1")

    with pytest.raises(KeyError):
        Watches([Mistaken()], print)(report())
