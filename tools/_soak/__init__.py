"""The parts of tools/soak.py: `app` is what is run, `orders` are what is asked of it, `client` asks; `chaos`
kills and stops them, `judgement` says what was wrong.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "tools"

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # durable_bus, from this checkout
