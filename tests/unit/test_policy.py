"""Where a policy's folder comes from."""

from __future__ import annotations

import huggingface_hub
import pytest

from empg.errors import DataError
from empg.policy.policy import fetch


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert fetch(str(tmp_path)) == tmp_path


def test_a_hub_id_is_downloaded_without_code(tmp_path, monkeypatch):
    def download(name, *, allow_patterns):
        assert name == "maker/model"
        assert not any(pattern.endswith(("py", "bin", "*", "pt", "pth")) for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch("maker/model") == tmp_path


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused():
    with pytest.raises(DataError, match=r"model 'no/such/folder': expected a folder or a hub id .* found Repo id must"):
        fetch("no/such/folder")


@pytest.mark.parametrize("error", [ConnectionError("offline"), TimeoutError("slow")])
def test_a_hub_that_cannot_be_reached_is_said(monkeypatch, error):
    def download(name, *, allow_patterns):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError, match=f"model 'maker/model': expected .* found {error}"):
        fetch("maker/model")
