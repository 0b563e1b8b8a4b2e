import re
from dataclasses import replace

import pytest

from talklip_ray.pipeline import installed as module
from talklip_ray.pipeline.installed import Installed, differences, installed

HERE = Installed(code="0123456789ab", python="3.11.7", packages={"torch": "2.13.0+cpu", "av": "18.1.0"})


def test_a_machine_does_not_differ_from_itself():
    assert list(differences(installed(), installed())) == []


def test_builds_and_patch_releases_may_differ():
    assert (
        list(differences(HERE, replace(HERE, python="3.11.9", packages=HERE.packages | {"torch": "2.13.0+cu130"})))
        == []
    )


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"code": "ffffffffffff"}, "talklip_ray's code ffffffffffff where the run was started with 0123456789ab"),
        ({"python": "3.12.1"}, "Python 3.12.1 where the run was started with 3.11.7"),
        ({"packages": {"torch": "2.12.0+cpu", "av": "18.1.0"}}, r"torch 2\.12\.0\+cpu where .* with 2\.13\.0\+cpu"),
        ({"packages": {"torch": "2.13.0"}}, "av missing where"),
    ],
)
def test_what_differs_is_named(there, found):
    (line,) = differences(HERE, replace(HERE, **there))
    assert re.search(found, line)


def test_code_is_what_its_files_say(tmp_path, monkeypatch):
    def code(name: str, text: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.py").write_text(text)
        (folder / "weights.bin").write_text(name)
        monkeypatch.setattr(module, "PACKAGE", folder)
        return installed().code

    assert code("one", "x = 1\n") == code("two", "x = 1\n") != code("three", "x = 2\n")
