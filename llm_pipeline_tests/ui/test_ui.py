"""The Dagster UI in a real browser, on the real code location: the graph, a click that materialises, a click that repairs a day."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from llm_pipeline.paths import PROJECT

pytestmark = [pytest.mark.ui, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::ResourceWarning")]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
GROUPS = ["curation", "training", "evaluation", "retrieval", "serving", "monitoring", "governance"]
PATIENCE = 240_000
"""Milliseconds to wait for a page or a run on a busy machine."""
PICTURE = PROJECT / "docs" / "graph.png"
BROKEN, GOOD = "2026-01-01", "2026-01-02"


@dataclass(frozen=True)
class Server:
    url: str
    source: Path
    """Folder of the user's source `mine`, which has the policy `strict`."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`dagster dev` (webserver, daemon, code server) in folders of its own; ended by process id."""
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's package `chromium` (apt-get install chromium)")
    root = tmp_path_factory.mktemp("ui")
    source = _user_source(root)
    (root / "dagster").mkdir()
    shutil.copyfile(PROJECT / "dagster.yaml", root / "dagster" / "dagster.yaml")
    environment = os.environ | {"DAGSTER_HOME": str(root / "dagster"), "LLM_PIPELINE_HOME": str(root / "home")}
    port = _free_port()
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    process = _start(command, root / "dagster.log", environment)
    try:
        _wait_for(f"http://127.0.0.1:{port}/server_info", process, root / "dagster.log")
        yield Server(f"http://127.0.0.1:{port}", source)
    finally:
        _end(process)


def _user_source(root: Path) -> Path:
    folder = root / "mine"
    for day, text in ((BROKEN, '{"id": "a", "text": "torn'), (GOOD, json.dumps({"id": "b", "text": "A good document."}))):
        (folder / day).mkdir(parents=True)
        (folder / day / "documents.jsonl").write_text(text + "\n")
    entry = {"name": "mine", "kind": "files", "uri": str(folder), "policy": "strict", "licence": "own", "owner": "me", "consent": "own"}
    (root / "home").mkdir()
    (root / "home" / "sources.yaml").write_text(yaml.safe_dump([entry]))
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, SIGINT as by default: Dagster copies an ignored SIGINT onto SIGTERM and could not be ended."""
    default_sigint = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", default_sigint, *command],
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask as Ctrl-C would, then make sure of its whole session."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the webserver did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1800, "height": 1000}, base_url=server.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    yield page
    context.close()


def test_the_global_graph_shows_the_seven_groups(page: Any, request: pytest.FixtureRequest) -> None:
    page.goto("/asset-groups/~?lineage")
    for group in GROUPS:
        page.locator("foreignObject", has_text=group).first.wait_for()
    if request.config.getoption("--update-picture"):
        PICTURE.parent.mkdir(exist_ok=True)
        page.wait_for_function("() => !document.body.innerText.includes('fetching statuses')")
        page.screenshot(path=str(PICTURE), animations="disabled")
        assert PICTURE.stat().st_size < 300_000


def test_an_asset_is_materialised_by_a_click(page: Any) -> None:
    """The audit log needs nothing from upstream: an empty home has an empty chain, and its check passes."""
    page.goto("/assets/audit_log")
    page.get_by_text("Never materialized").first.wait_for()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Confirm").click()
    page.get_by_text("Never materialized").first.wait_for(state="detached")
    page.goto("/assets/audit_log?view=checks")
    page.get_by_text("audit_chain_intact").first.wait_for()
    page.get_by_text("Passed").first.wait_for()


def test_a_failed_day_is_repaired_by_a_click(page: Any, server: Server) -> None:
    """Two days, one with a torn file in a strict source: it fails alone; after the repair `Failed` and a click rerun only that day."""
    _backfill(page, lambda dialog: _choose(dialog, f"[{BROKEN}...{GOOD}]"), 2)
    _partitions(page, failed=1, materialised=1)
    (server.source / BROKEN / "documents.jsonl").write_text(json.dumps({"id": "a", "text": "A repaired document."}) + "\n")
    _backfill(page, lambda dialog: dialog.get_by_role("button", name="Failed", exact=True).click(), 1)
    _partitions(page, failed=0, materialised=2)


def _backfill(page: Any, choose: Callable[[Any], None], expected: int) -> None:
    page.goto("/assets/raw/mine")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.locator(".dagster-portal", has_text="Partition selection")
    dialog.get_by_role("button", name="Show all partitions").click()
    choose(dialog)
    dialog.get_by_text(re.compile(rf"^{expected} partitions?$")).first.wait_for()
    dialog.get_by_role("button", name=re.compile("^Launch")).click()
    dialog.wait_for(state="detached")


def _choose(dialog: Any, partitions: str) -> None:
    field = dialog.locator("input[type=text]").first
    field.fill(partitions)
    field.press("Enter")


def _partitions(page: Any, *, failed: int, materialised: int) -> None:
    """Wait until the page of partitions shows these counts."""
    page.goto("/assets/raw/mine?view=partitions")
    page.get_by_text(f"Materialized ({materialised})").wait_for()
    page.get_by_text(f"Failed ({failed})").wait_for()
