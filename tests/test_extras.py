"""What an optional package that is missing comes to: one sentence with the command that brings it."""

import sys

import pytest

from swinv2.extras import require, require_later


@pytest.mark.parametrize("ask", [require, require_later])
def test_a_package_that_is_missing_is_named_with_its_cure(ask):
    with pytest.raises(ImportError, match=r'^needs nowhere -- pip install "swinv2\[serve\]"$') as caught:
        ask("nowhere", extra="serve")
    assert caught.value.name == "nowhere"


def test_what_is_imported_later_is_not_imported_now(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    require_later("imported_late", extra="serve")
    assert "imported_late" not in sys.modules


def test_a_package_that_is_broken_tells_its_own_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="nowhere_at_all") as caught:
        require("broken_package", extra="serve")
    assert "pip install" not in str(caught.value)
