"""Refuses to write a journal that another user could write to. Reading is not restricted.

Everybody who opens a journal for writing comes through here. Besides us, only root is trusted. In a folder
like /tmp another user may have been there before us: with a symbolic link that leads elsewhere, with a
journal full of work for our workers, or with a -wal, whose pages SQLite would take for commits. The owner of
a folder that not everybody may write to is trusted with the symbolic links in it. That owner can also delete
our files, but a file that another user puts in their place is refused.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from durable_bus.errors import JournalUnreachable

__all__ = [
    "files_of",
    "path_to_write",
    "real_path",
    "refuse_file_of_others",
    "refuse_folder_of_everybody",
    "refuse_no_file",
    "refuse_others",
    "refuse_owner",
    "reserved",
    "wal_bytes",
]

_LINKS_MAX = 40
"""As many as the kernel follows (path_resolution(7))."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


def files_of(journal: str | Path) -> tuple[Path, ...]:
    """The real paths of the journal and of all that may lie beside it: its log, lock and daemon's socket."""
    real = os.path.realpath(journal)
    return tuple(Path(real + suffix) for suffix in ("", "-wal", "-shm", "-journal", ".lock", ".sock"))


def wal_bytes(journal: str | Path) -> int | None:
    """How long the journal's write-ahead log is; None when there is none."""
    try:
        return os.stat(f"{os.path.realpath(journal)}-wal").st_size
    except OSError:
        return None


def refuse_no_file(path: Path) -> None:
    """Ask this before a journal is opened: SQLite would read a device, too. Raises JournalUnreachable."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # there is none, or whoever opens it will say what is wrong
    if not stat.S_ISREG(mode):
        raise JournalUnreachable(f"cannot open the journal {path}: it is {_kind(mode)}")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "not a file")


def path_to_write(journal: Path) -> Path:
    """The real path of a journal that we may write to. Open this path: it has no symbolic link that could be
    changed after we have looked. Raises JournalUnreachable, before anything is opened.
    """
    refuse_no_file(journal)
    real = real_path(journal)
    refuse_others(real)
    return real


def real_path(path: str | Path) -> Path:
    """Where a path leads, as `os.path.realpath` says it.

    Raises JournalUnreachable for a symbolic link that another user has put where everybody may, as the kernel
    refuses it where `fs.protected_symlinks` is set, and for links that lead nowhere.
    """
    at = Path("/")
    rest = str(Path(path).absolute()).split("/")[::-1]
    links = 0
    while rest:
        name = rest.pop()
        if name == "..":
            at = at.parent
        if name in ("", ".", ".."):
            continue
        here = at / name
        try:
            facts = here.lstat()
            target = os.readlink(here) if stat.S_ISLNK(facts.st_mode) else None
            everybodys = bool(at.stat().st_mode & stat.S_IWOTH)
        except OSError:
            target = None  # it is not there, or whoever opens it will say what is wrong
        if target is None:
            at = here
            continue
        if everybodys and not _is_trusted(facts.st_uid):
            raise JournalUnreachable(
                f"the symbolic link {here} belongs to another user (uid {facts.st_uid}), and everybody may "
                f"write to the folder {at}"
            )
        links += 1
        if links > _LINKS_MAX:
            raise JournalUnreachable(f"cannot open the journal {path}: too many symbolic links")
        at = Path("/") if target.startswith("/") else at
        rest += target.split("/")[::-1]
    return at


def _is_trusted(uid: int) -> bool:
    return uid in (os.geteuid(), 0)


def refuse_others(journal: Path) -> None:
    """Of a journal that is to be written, at its `real_path`. Raises JournalUnreachable when somebody else
    could have put another one in its place, or could write to it or to what is beside it.
    """
    refuse_folder_of_everybody(journal.parent)
    for path in files_of(journal):
        try:
            facts = path.lstat()
        except OSError:
            continue  # it is not there, or whoever opens it will say what is wrong
        if path.suffix == ".sock":
            refuse_owner(path, facts)  # what it is, and whether it is in use, is for who replaces it to say
        else:
            refuse_file_of_others(path, facts)


@contextlib.contextmanager
def reserved(journal: Path) -> Iterator[None]:
    """Makes the journal's missing -wal, -shm and -journal as empty files while SQLite opens it, in a folder
    like /tmp: so no other user can put one there after we have looked. SQLite takes an empty file for none.
    Raises as `refuse_others`.
    """
    made: list[Path] = []
    if journal.parent.stat().st_mode & stat.S_IWOTH:
        mode = stat.S_IMODE(journal.stat().st_mode)
        for suffix in ("-wal", "-shm", "-journal"):
            path = Path(f"{journal}{suffix}")
            with contextlib.suppress(OSError):  # it is there, or SQLite will say why it cannot be
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                made.append(path)
                os.fchmod(fd, mode)  # as SQLite does it: who may read a journal may read these
                os.close(fd)
    try:
        refuse_others(journal)
        yield
    except BaseException:
        _remove_empty(made)
        raise
    _remove_empty([path for path in made if path.name.endswith("-journal")])  # the others are in use now


def _remove_empty(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == 0:
                path.unlink()


def refuse_folder_of_everybody(folder: Path) -> None:
    """Raises JournalUnreachable for one in which everybody may replace everything, unlike in /tmp."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return  # whoever opens something in it will say what is wrong
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise JournalUnreachable(f"everybody may write to the folder {folder}: chmod o-w {folder}")


def refuse_file_of_others(path: Path, facts: os.stat_result) -> None:
    """Raises JournalUnreachable unless it is a file that only we, or root, can write to."""
    refuse_owner(path, facts)
    if not stat.S_ISREG(facts.st_mode):
        raise JournalUnreachable(f"cannot open {path}: it is {_kind(facts.st_mode)}")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise JournalUnreachable(f"other users may write to {path}: chmod go-w {path}")


def refuse_owner(path: Path, facts: os.stat_result) -> None:
    """Raises JournalUnreachable for what belongs to neither us nor root."""
    if not _is_trusted(facts.st_uid):
        raise JournalUnreachable(f"{path} belongs to another user (uid {facts.st_uid})")
