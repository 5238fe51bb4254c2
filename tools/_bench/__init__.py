"""The parts of tools/bench.py: `app` is what is run, `processes` starts it, `figures` are what comes out;
most other files are a section or two.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "tools"

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # durable_bus, from this checkout
