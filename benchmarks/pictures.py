"""The two pictures of README.md, made anew: a run's report and the service's page, in headless Chromium.

Run:  python benchmarks/pictures.py                    (trains the sample of recipes/sst2_finetune.py for them)
      python benchmarks/pictures.py --run runs/sst2    (of a finished run with one label a text)
"""

import argparse
import base64
import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the driver of the browser is that of the tests

from browser import Chromium  # noqa: E402

WIDTH, HEIGHT, SCALE = 1000, 900, 1.5  # of the window in pixels of a page, and pixels of the picture for each
COLOURS = 64  # text and bars need no more
LARGEST = 150_000  # bytes
TEXT = "Not a great script, but the actors make it a joy to watch."


def make_pictures(run: str, folder: Path) -> None:
    """Writes report.png and page.png into a folder.

    Raises:
        FileNotFoundError: no report in the folder of the run.
    """
    report = Path(run, "report", "report.html").resolve()
    if not report.is_file():
        raise FileNotFoundError(f"Found no {report}; expected a finished run. Name another --run.")
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile)) as browser:
        browser.go(report.as_uri(), width=WIDTH, height=HEIGHT)
        save(browser, folder / "report.png")
        with served(run) as address:
            browser.go(address, width=WIDTH, height=HEIGHT)
            browser.wait("document.getElementById('about').textContent.startsWith('Model')")
            browser.run("document.getElementById('text').focus()")
            browser.type(TEXT)
            browser.run("document.getElementById('go').click()")
            browser.wait("!document.getElementById('answer').hidden")
            browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
            save(browser, folder / "page.png")


@contextlib.contextmanager
def served(run: str) -> Iterator[str]:
    """The address of a service with the model of a run."""
    command = [sys.executable, "recipes/serve.py", "--model_name_or_path", str(Path(run).resolve()), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    try:
        yield process.stdout.readline().split()[-1] + "/"
    finally:
        process.terminate()
        process.wait()


def save(browser: Chromium, path: Path) -> None:
    """Writes what the window shows as a PNG of few colours.

    Raises:
        ValueError: a picture of more than `LARGEST` bytes.
    """
    window = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **window)
    shot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes; expected at most {LARGEST:,}. Lower COLOURS or SCALE.")
    print(f"{path}: {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a finished run; none: train the sample for it")
    parser.add_argument("--output_dir", default=str(ROOT / ".github"), help="folder for report.png and page.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or str(Path(folder, "sample"))
        if args.run is None:
            command = [sys.executable, "recipes/sst2_finetune.py", "--sample", "--output_dir", run]
            subprocess.run(command, check=True, cwd=ROOT)
        make_pictures(run, Path(args.output_dir))


if __name__ == "__main__":
    main()
