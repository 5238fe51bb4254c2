"""Parts of tools/screenshots.py."""
