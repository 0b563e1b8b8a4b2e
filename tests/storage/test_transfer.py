"""What files on their way to a store have in common, whichever it is."""

from pathlib import Path

import pytest

from talklip_ray.errors import StoreError
from talklip_ray.storage.store import Stat
from talklip_ray.storage.transfer import send_file


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_sent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")

    def send(digest: str, mark: str) -> None:
        path.write_bytes(b"another")

    with pytest.raises(StoreError, match="must not change while it is uploaded"):
        send_file(path, "s3://b/a", send=send, landed=lambda mark: Stat("s3://b/a", 3, "etag", ""))
