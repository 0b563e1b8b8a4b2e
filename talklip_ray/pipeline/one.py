"""The same list of stages in this process alone: no cluster, no object store."""

from __future__ import annotations

import time
from collections.abc import Callable

from talklip_ray.config import Pools
from talklip_ray.pipeline.assemble import assemble_title
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.dub import dub, work
from talklip_ray.pipeline.ledger import Ledger
from talklip_ray.pipeline.plan import title_row
from talklip_ray.pipeline.quarantine import failure
from talklip_ray.pipeline.results import Summary, summarise
from talklip_ray.pipeline.run import Run
from talklip_ray.records import Segment, Title


def dub_here(run: Run, title: Title, *, progress: Callable[[float], None] = lambda share: None) -> Summary:
    """Dubs one title segment by segment; memory holds one segment, however long the title.

    ``progress`` hears the share of the title that is done, 0 to 1.
    """
    started = time.perf_counter()
    plan, *steps = [(step, step.stage(run)) for step in dub(Pools())]
    ledger = Ledger(Catalog.of([title]))
    for row in work(plan[1], [title_row(title)]):
        rows = [row]
        for _, stage in steps:
            rows = [out for one in rows for out in work(stage, [one], run.config.faults)]
        for done in rows:
            for parts in ledger.take(done):
                try:
                    ledger.finish(assemble_title(run, parts))
                except Exception as error:  # noqa: BLE001 - reported like any other stage's failure
                    lost = failure(error, stage="assemble", title=title.id, language=parts[0].placement.language)
                    ledger.fail(lost)
            if done["segment"]:
                segment = Segment.from_json(done["segment"])
                progress(segment.stop / segment.num_frames)
    ledger.close()
    return summarise(run, ledger, time.perf_counter() - started)
