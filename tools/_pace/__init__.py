"""The parts of tools/pace.py: `app` is what is run, `processes` starts it; the others are its sections."""
