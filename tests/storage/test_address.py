from talklip_ray.storage.address import absolute


def test_a_relative_path_is_made_one_that_other_processes_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("out/") == f"{tmp_path}/out"
    assert [absolute(uri) for uri in ("s3://b/k", "file:///a", "/a", "")] == ["s3://b/k", "file:///a", "/a", ""]
