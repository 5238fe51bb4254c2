"""A standard library with fewer files for the demo to audit: all of them take 15 s of a core."""

import shutil
import sysconfig
from pathlib import Path

from durable_bus.examples.code_audit import sources

_SITE = """
import sysconfig
_path = sysconfig.get_path
sysconfig.get_path = lambda name, *rest, **more: LIBRARY if name == "stdlib" else _path(name, *rest, **more)
"""


def smaller(folder: Path, at_least: int) -> dict[str, str]:
    """Files from all over the library, which has more of them in one Python than in another; the variables
    with which a process takes these for all of it.
    """
    library = Path(sysconfig.get_path("stdlib"))
    every = [*sources()]
    for source in every[:: max(1, len(every) // at_least)]:
        copy = folder / "library" / Path(source.path).relative_to(library)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path, copy)
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"LIBRARY = {str(folder / 'library')!r}\n{_SITE}")
    return {"PYTHONPATH": str(site)}
