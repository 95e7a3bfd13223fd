"""The documentation as a site: built without a warning, and loading nothing from elsewhere."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import Tab, chromium, missing
from tests.docs.shell import ROOT

LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
ELSEWHERE = re.compile(r"^(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches for a page without being asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        url = dict(attrs).get(LOADING.get(tag, ""))
        if url:
            self.urls.append(url)


def test_no_page_names_anything_to_load_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    found = [
        (page.name, url)
        for page in pages
        for url in Loads(page.read_text()).urls
        if ELSEWHERE.match(url)
    ]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\([\"']?([^\"')]+)", sheet.read_text())
        found += [(sheet.name, url) for url in urls if ELSEWHERE.match(url)]
    assert found == []


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as opened:
        yield opened


@pytest.mark.skipif(missing() != "", reason=missing())
@pytest.mark.parametrize("page", ["index.html", "concepts/index.html", "tasks/l7-policy.html"])
def test_a_browser_loads_it_from_here_only(tab: Tab, served: str, page: str) -> None:
    tab.open(served + page)
    tab.until("document.querySelector('.md-content h1') !== null")
    urls = tab.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    broken = "[...document.images].filter(one => !one.complete || !one.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    assert tab.errors == []
    assert urls
    assert [url for url in urls if not url.startswith(served)] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    local = [link for link in links if not ELSEWHERE.match(link)]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    """By links of pages, as they are read in a repository's browser."""
    seen, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop().resolve()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
        left += [path for link in links if (path := page.parent / link).exists()]
    pages = {path.resolve() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - seen == set()


def test_tests_that_pages_name_exist() -> None:
    """In the table of threats, and in the reasons of what is not run."""
    found = re.findall(r"`((?:e2e|netns|unit|interop|kube)/[\w/.]+)`",
                       (ROOT / "docs/security/threats.md").read_text())  # fmt: skip
    for page in ROOT.glob("docs/**/*.md"):
        reasons = re.findall(r"<!-- not run: (.*) -->", page.read_text())
        found += [one.removeprefix("tests/") for text in reasons
                  for one in re.findall(r"tests/[\w/.]+", text)]  # fmt: skip
    assert found
    assert [one for one in found if not (ROOT / "tests" / one.rstrip(".")).exists()] == []
