"""A browser shows the page without a script, without the network and without a message in its console."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.report import comparison
from pipeline.report.content import make_page
from tests.support.reports import PAYLOADS, Page, compared_of, facts_of

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
CONSOLE = re.compile(r":CONSOLE[:(].*")


def opened(path: Path, folder: Path) -> tuple[str, list[str]]:
    """Opens a page without a network. Returns the document after all scripts ran, and the messages of the console."""
    assert BROWSER is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--enable-logging=stderr"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run([BROWSER, *flags, "--dump-dom", path.as_uri()], capture_output=True, timeout=300, check=True)
    return done.stdout.decode(), CONSOLE.findall(done.stderr.decode(errors="replace"))


WHOLE = "".join(PAYLOADS[name] for name in sorted(PAYLOADS) if "long" not in name)
PAGES: dict[str, Callable[[], str]] = {
    "run": lambda: make_page(facts_of(WHOLE, many=3)),
    "comparison": lambda: comparison.make_page(*compared_of(WHOLE, many=3), ["keyjoin", "compare", WHOLE]),
}


@pytest.mark.parametrize("name", PAGES)
def test_payloads_do_nothing_in_a_browser(tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(PAGES[name]())
    document, messages = opened(path, tmp_path / "profile")
    assert messages == []
    shown, written = Page(document), Page(path.read_text())
    assert shown.tags == written.tags
    assert shown.attributes == written.attributes
    assert "script" not in shown.tags


def test_the_policy_of_the_page_stops_what_an_escape_would_let_through(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    injected = "<main><script>document.title = 'run'</script><img src='https://example.com/x.png' onerror=\"document.title='run'\">"
    path.write_text(make_page(facts_of("x")).replace("<main>", injected + "<p style='color:red'>", 1))
    document, messages = opened(path, tmp_path / "profile")
    assert "<title>keyjoin: x</title>" in document
    assert len(messages) >= 3
    assert all("Content Security Policy" in message for message in messages)
