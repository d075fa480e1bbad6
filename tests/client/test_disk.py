"""Files that take their places when they are whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from metalm.files.disk import replacing


def test_a_new_file_has_the_mode_of_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the umask, which is that of all threads, is never another meanwhile."""
    (tmp_path / "other").touch()
    changed: list[int] = []
    monkeypatch.setattr(os, "umask", changed.append)
    with replacing(tmp_path / "new") as stream:
        stream.write(b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "new")}
    assert (len(modes), changed) == (1, [])
    assert sorted(os.listdir(tmp_path)) == ["new", "other"]


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.touch()
    place.chmod(0o640)
    with replacing(place) as stream:
        stream.write(b"x")
        (beside,) = set(tmp_path.iterdir()) - {place}
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert place.read_bytes() == b"x"


def test_a_signal_that_comes_with_a_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception that it becomes is raised where the call returns, before its result is kept."""
    make = os.open

    def interrupted(*arguments: Any) -> int:
        os.close(make(*arguments))
        raise SystemExit(143)

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(SystemExit), replacing(tmp_path / "file"):
        pytest.fail("there is no file")
    assert os.listdir(tmp_path) == []
