"""Whether other machines see a journal's file, too."""

from pathlib import Path

import pytest

from durable_bus.journal.admin.check import check
from durable_bus.journal.file_system import network_file_system
from durable_bus.journal.journal import Journal

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:30 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 0:31 / /home/me/scratch rw - tmpfs tmpfs rw
32 22 0:32 / /with\\040space rw master:1 - fuse.sshfs me@there:/ rw
33 22 0:33 / /data rw - xfs /dev/sdb rw
34 22 0:34 / /data rw - lustre ost@tcp:/l rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/j.db", None),
        ("/home/me/j.db", "nfs4"),
        ("/home/me/scratch/j.db", None),
        ("/homes/j.db", None),
        ("/with space/j.db", "fuse.sshfs"),
        ("/data/j.db", "lustre"),
    ],
)
def test_the_innermost_mount_of_a_path_says_it(tmp_path: Path, path: str, kind: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(path, mounts) == kind


def test_a_link_is_where_it_leads(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    (tmp_path / "j.db").symlink_to("/home/me/j.db")
    assert network_file_system(tmp_path / "j.db", mounts) == "nfs4"


def test_where_nobody_says_it_nothing_is_said(tmp_path: Path) -> None:
    assert network_file_system(tmp_path / "j.db", tmp_path / "none") is None
    (tmp_path / "cut").write_text("22 1 254:0\n")
    assert network_file_system(tmp_path / "j.db", tmp_path / "cut") is None


def test_check_says_it(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not here is a network file system, so what says that there is one stands in for it."""
    Journal.open(journal).close()
    for kind in ("nfs4", None):
        monkeypatch.setattr(
            "durable_bus.journal.admin.check.network_file_system", lambda path, kind=kind: kind
        )
        notes = [note.message for note in check(journal).warnings if note.name == "network_file_system"]
        assert [note.partition(",")[0] for note in notes] == (["the journal is on nfs4"] if kind else [])
