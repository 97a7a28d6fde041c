"""What people build their own tests with leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from sofs.testing import LocalCluster


def test_a_cluster_that_cannot_start_removes_its_run_directory(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where the root should be")
    cluster = LocalCluster(tmp_path / "root", nodes=1)
    assert cluster.run_dir.exists()
    with pytest.raises(Exception, match="root"), cluster:
        raise AssertionError("it started")
    assert not cluster.run_dir.exists()
