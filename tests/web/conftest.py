"""An editor as a user starts it, and a browser that talks to it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.conftest import ROOT


class Editor:
    """A running `anyphoto layout edit`. address: with its token."""

    def __init__(self, layout, *options):
        self.layout = layout
        environment = {**os.environ, "ANYPHOTO_LAYOUT_EDIT_MODEL": "mini"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anyphoto_cli", "layout", "edit", str(layout), "--no-browser", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise AssertionError(self.process.stderr.read())
        self.root, _, self.token = self.address.partition("?token=")
        self.root = self.root.rstrip("/")
        self.cookie = f"anyphoto_editor_{self.root.rpartition(':')[2]}"

    def stop(self):
        """As Ctrl-C does; returns its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


class EditorHere:
    """The same editor in a thread of the tests' process, as a start of its own takes seconds. address: with its token."""

    def __init__(self, layout):
        import uvicorn

        from anyphoto_cli.config.generate import GenerateConfig
        from anyphoto_cli.web.guard import HOST, Guard, address
        from anyphoto_cli.web.jobs import Jobs
        from anyphoto_cli.web.server import build_app, open_workspace

        config, listening = GenerateConfig(model="mini"), socket.create_server((HOST, 0))
        port = listening.getsockname()[1]
        self.root, self.address = f"http://{HOST}:{port}", address(port, "token")
        self._jobs = Jobs(layout, config)
        app = Guard(build_app(open_workspace(layout, config), self._jobs), "token", port)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()

    def stop(self):
        """Event streams first: the server waits for them."""
        self._jobs.closing = self._server.should_exit = True
        self._thread.join(timeout=30)
        self._jobs.close()


@pytest.fixture
def start(request):
    """start(layout) -> EditorHere; stopped at the end of the test."""

    def started(layout):
        editor = EditorHere(layout)
        request.addfinalizer(editor.stop)
        return editor

    return started


@pytest.fixture
def start_program(request):
    """start_program(layout, *options) -> Editor; stopped at the end of the test."""

    def started(layout, *options):
        editor = Editor(layout, *options)
        request.addfinalizer(lambda: editor.process.poll() is None and editor.stop())
        return editor

    return started


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, without a window."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page; whatever it logs as an error, or asks of another address, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and opened.problems.append(said.text))
    opened.on("request", lambda asked: asked.url.startswith(("http://127.0.0.1", "data:", "blob:"))
              or opened.problems.append(asked.url))  # fmt: skip
    yield opened
    context.close()


@pytest.fixture
def friends(tmp_path):
    """The example of two drawn friends, in a folder of its own."""
    shutil.copytree(ROOT / "examples" / "drawn_people", tmp_path / "drawn_people")
    shutil.copyfile(ROOT / "examples" / "two_friends.json", tmp_path / "two_friends.json")
    return tmp_path / "two_friends.json"
