"""The page of docs/tutorial/clickstream.md, in a real browser, against a real server."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import Serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "clickstream.md"
#: The start of a browser takes some seconds, and many more where everything else runs at the same time.
BROWSER_S = 60


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def website(folder: Path) -> Iterator[str]:
    """Serves a folder; gives its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://localhost:{listener.server_address[1]}"
        listener.shutdown()
        thread.join()


def opened(url: str, profile: Path) -> str:
    """The page's HTML when all of its requests were answered."""
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=BROWSER_S,
    )
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_what_a_visitor_of_the_tutorials_page_does_is_in_the_files(serve: Serve, tmp_path: Path) -> None:
    page = re.search(r"```html\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert page is not None
    (tmp_path / "site").mkdir()
    with website(tmp_path / "site") as origin:
        server = serve()
        body = {
            "name": "clicks",
            "source": [{"type": "http", "cors": {"origins": [origin]}}],
            "destination": {"path": {"bucket": "shop"}, "batch": {"max_duration_s": 0.25}},
        }
        endpoint = server.control("POST", "", body).json["result"]["endpoint"]
        html = page[1].replace("PASTE THE ENDPOINT HERE", endpoint)
        assert endpoint in html
        clicked = html.replace("</script>", "  document.querySelector('button').click();\n</script>")
        (tmp_path / "site" / "shop.html").write_text(clicked)
        assert "stored: " in opened(f"{origin}/shop.html", tmp_path / "profile")

    assert server.control("DELETE", "/clicks").status == 200
    server.wait_for("pipeline_removed")
    server.stop()
    files = (server.data / "buckets" / "shop").rglob("*.json.gz")
    records = [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert sorted(record["event"] for record in records) == ["add_to_cart", "page_view"]
    assert len({record["visitor"] for record in records}) == 1
    assert [record["price"] for record in records if "price" in record] == [4.5]
