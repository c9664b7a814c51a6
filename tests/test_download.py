"""Files from a network: resumed where they broke off, and never mixed from two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mirror import Mirror, serving

from swinv2 import download
from swinv2.download import DownloadError

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as found:
        yield found


def test_a_download_goes_on_in_another_run(mirror, tmp_path):
    mirror.files["f.pth"] = CONTENT
    mirror.cut_after = [7000, 7000]  # the second attempt brings nothing
    with pytest.raises(DownloadError, match=r"broke off after 7,000 of"):
        download.download(f"{mirror.address}/f.pth", tmp_path / "f.pth")
    assert not (tmp_path / "f.pth").exists()
    download.download(f"{mirror.address}/f.pth", tmp_path / "f.pth")
    assert (tmp_path / "f.pth").read_bytes() == CONTENT
    assert mirror.asked[-1] == ("f.pth", "bytes=7000-")
    assert {p.name for p in tmp_path.iterdir()} <= {"f.pth", "f.pth.lock"}


@pytest.mark.parametrize("change", ["etag", "no ranges", "other address"])
def test_a_file_that_changed_meanwhile_is_taken_from_the_start(change, mirror, tmp_path):
    mirror.files |= {"f.pth": CONTENT, "g.pth": CONTENT}
    mirror.cut_after = [7000, 7000]
    with pytest.raises(DownloadError):
        download.download(f"{mirror.address}/f.pth", tmp_path / "f.pth")
    name, mirror.ranges = "g.pth" if change == "other address" else "f.pth", change != "no ranges"
    if change == "etag":
        mirror.etag, mirror.files["f.pth"] = '"two"', CONTENT[::-1]
    download.download(f"{mirror.address}/{name}", tmp_path / "f.pth")
    assert (tmp_path / "f.pth").read_bytes() == mirror.files[name]


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(DownloadError, match="no address"):
        download.download("file:///etc/passwd", tmp_path / "f")
