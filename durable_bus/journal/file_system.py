"""Which file system a journal is on, where that is one of other machines, too.

The write-ahead log's index is memory that its readers and its writer share, and that is of one machine
(sqlite.org/wal.html). On some of these file systems locks are of one machine as well: then nobody keeps two
supervisors on two machines apart.
"""

import os
import re
from pathlib import Path

__all__ = ["network_file_system"]

_OF_OTHERS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs"}
    | {"smb3", "smbfs", "virtiofs", "fuse.ceph-fuse", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs"}
    | {"fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


def network_file_system(path: str | Path, mounts: str | Path = "/proc/self/mountinfo") -> str | None:
    """The name of the file system, as mount(8) has it; None for one of this machine, and where nobody knows.

    `mounts`: a file as proc_pid_mountinfo(5) says.
    """
    real = os.path.realpath(path)
    found = ("", "")
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields, _, source = line.partition(" - ")
                point = _unescaped(fields.split()[4])
                inside = real == point or real.startswith(f"{point.rstrip('/')}/")
                if inside and len(point) >= len(found[0]):  # of several at one place the last is seen
                    found = (point, source.split()[0])
    except (OSError, IndexError):
        return None
    kind = found[1]
    return kind if kind in _OF_OTHERS else None


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
