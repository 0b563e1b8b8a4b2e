from __future__ import annotations

import av.logging

from talklip_ray.media.encoders import NEEDED, library_versions, usable_encoders


def test_what_the_product_is_made_with_opens_here() -> None:
    assert usable_encoders(NEEDED) == dict.fromkeys(NEEDED, True)


def test_an_encoder_nobody_built_is_unusable_not_an_error() -> None:
    assert usable_encoders(["no_such_encoder", "aac"]) == {"no_such_encoder": False, "aac": True}


def test_asking_leaves_the_log_level_as_it_was() -> None:
    before = av.logging.get_level()
    usable_encoders(["h264_nvenc"])
    assert av.logging.get_level() == before


def test_the_libraries_name_their_versions() -> None:
    assert library_versions()["libavcodec"].count(".") == 2
