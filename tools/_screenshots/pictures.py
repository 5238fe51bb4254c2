"""Takes pictures of pages with Chromium, and makes them small."""

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--hide-scrollbars",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--force-color-profile=srgb",
)
_HEIGHT_MAX = 1400
_README_HEIGHT = 860
_LOOKS = {"light": (1200, "light"), "dark": (1200, "dark"), "narrow": (360, "light")}
_BYTES_MAX = 150_000
_ELSEWHERE = """
document.getElementById("pause")?.click();  // else the next update would bring the folders back
for (const element of document.querySelectorAll("pre"))
    for (const folder of arguments[0])
        element.textContent = element.textContent.replaceAll(folder, "/srv/documents");
"""


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(executable_path=shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def pictures(
    driver: Any, address: str, paths: dict[str, str], folder: Path, hidden: list[str]
) -> Iterator[tuple[str, Path]]:
    """Each page in each look: its name, and the file. Only of the light ones the name is that of the page.

    `hidden`: folders of this machine, which tracebacks name, and pictures do not.
    """
    for look, (width, scheme) in _LOOKS.items():
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for name, path in paths.items():
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            driver.get(address + path)
            driver.execute_script(_ELSEWHERE, hidden)
            height = min(_HEIGHT_MAX, driver.execute_script("return document.documentElement.scrollHeight"))
            part = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            taken = driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": part, "captureBeyondViewport": True}
            )
            made = folder / f"{name}-{look}.png"
            made.write_bytes(base64.b64decode(taken["data"]))
            yield (name if look == "light" else ""), made


def shrink(picture: Path, target: Path) -> None:
    """Its upper part, with as many colours as fit."""
    from PIL import Image

    with Image.open(picture) as image:
        part = image.convert("RGB").crop((0, 0, image.width, min(image.height, _README_HEIGHT)))
        part.save(target, optimize=True)
        if target.stat().st_size < _BYTES_MAX:
            return
        for colours in (256, 128, 64):
            part.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
            if target.stat().st_size < _BYTES_MAX:
                return
    raise ValueError(f"{target} stays longer than {_BYTES_MAX:,} bytes")
