"""The pictures of docs/annotate.md: the annotation page on synthetic hearts, in headless Chromium.

    python benchmarks/annotate_pictures.py --out docs     # annotate.png, annotate-names.png and annotate-tablet.png

It needs Chromium and Playwright (of the extra `dev`). With --quick it keeps nothing.
"""

import argparse
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from scribbleseg.phantoms import write_phantoms
from scribbleseg.server.project import open_project
from scribbleseg.server.run import HOST, prepared

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SETTLED_MS = 600
"""After which nothing moves any more: what was last drawn has been painted and named in the list."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--quick", action="store_true", help="no file is kept")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as started:
        out = Path(scratch) if arguments.quick else arguments.out
        browser = started.chromium.launch(executable_path=arguments.chromium, args=[*FLAGS])
        hearts = write_phantoms(Path(scratch) / "hearts", train=7, test=3)
        images = Path(scratch) / "images alone" / "hearts"
        shutil.copytree(hearts / "images", images / "images")
        with page_of(browser, images) as page:
            page.wait_for_selector("body[data-ready=naming]")
            page.locator("#names").fill("RV\nMyo\nLV")
            save(page, out / "annotate-names.png")
        with page_of(browser, hearts) as page:
            look_around(page)
            save(page, out / "annotate.png")
        with page_of(browser, hearts, {"width": 1024, "height": 768}, color_scheme="light", has_touch=True) as page:
            page.locator("#show-cases").click()
            open_case(page, 6)
            page.locator("#show-cases").click()
            page.get_by_text("% of the slice").wait_for()
            save(page, out / "annotate-tablet.png")
        browser.close()


@contextmanager
def page_of(browser: Any, root: Path, size: dict[str, int] | None = None, **more: Any) -> Iterator[Any]:
    """The page of a data set, in a window of its own; the server ends with it."""
    listener = socket.create_server((HOST, 0))
    served = prepared(open_project(root), listener)
    thread = threading.Thread(target=served.server.run, kwargs={"sockets": [listener]})
    thread.start()
    context = browser.new_context(viewport=size or {"width": 1280, "height": 720}, **{"color_scheme": "dark", **more})
    try:
        page = context.new_page()
        page.goto(served.address)
        page.wait_for_selector("body[data-ready]")
        yield page
    finally:
        context.close()
        served.server.should_exit = True
        thread.join()
        listener.close()


def look_around(page: Any) -> None:
    """Marks some cases as done and one as flagged, and stays at one whose areas have grown."""
    open_case(page, 2)
    for case in (2, 3, 4):
        open_case(page, case)
        page.keyboard.press("d")
        page.wait_for_selector(f"#case-list li:nth-child({case + 1}) button[data-state=done]")
    open_case(page, 1)
    page.keyboard.press("f")
    page.keyboard.type("the apex is cut off")
    page.keyboard.press("Enter")
    page.wait_for_selector("#case-list i.flag")
    open_case(page, 5)
    page.get_by_text("% of the slice").wait_for()


def open_case(page: Any, case: int) -> None:
    """Opens a case by its place in the list."""
    page.locator("#case-list button").nth(case).click()
    page.wait_for_selector(f"body[data-ready='{case}']")


def save(page: Any, file: Path) -> None:
    """Writes what is seen."""
    page.wait_for_timeout(SETTLED_MS)
    Image.open(BytesIO(page.screenshot())).convert("RGB").save(file, optimize=True)


if __name__ == "__main__":
    main()
