"""A headless Chromium that tests steer by its debugging protocol, over a pair of pipes and without a library."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers, where Chromium's sandbox cannot
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)
MOST_SECONDS = 60.0


def a_browser() -> str:
    """The browser's command; the test is skipped where none is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES)}")
    return found


class Page:
    """One page of a running browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._number, self._rest, self._session = 0, b"", ""
        self.requests: list[str] = []  # addresses that the page has asked for
        self.messages: list[str] = []  # errors, and what scripts wrote to the console
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._number:
                assert "error" not in got, (method, got["error"])
                return got["result"]

    def _next(self) -> dict:
        """The next message; events are noted."""
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], MOST_SECONDS)[0], "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        data, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(data)
        what, event = message.get("method"), message.get("params", {})
        if what == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif what == "Runtime.exceptionThrown":
            self.messages.append(str(event["exceptionDetails"]))
        elif what == "Runtime.consoleAPICalled":
            self.messages.append(str(event["args"]))
        elif what == "Log.entryAdded":
            self.messages.append(event["entry"]["text"])
        return message

    def open(self, path) -> None:
        """Opens a file and waits until its page is ready."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str):
        """The value of an expression of JavaScript, awaited."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str) -> None:
        end = time.monotonic() + MOST_SECONDS
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def look(self, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Sets the window's size and the scheme of colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path) -> None:
        """Writes a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_browser():
    """A page of a browser of its own."""
    command = a_browser()
    to_read, to_write = os.pipe(), os.pipe()  # the browser reads its commands from file 3 and answers on file 4

    def place() -> None:
        os.dup2(to_read[0], 3)
        os.dup2(to_write[1], 4)

    with tempfile.TemporaryDirectory() as profile:
        # High numbers, so that making them 3 and 4 does not close the other one.
        for pair in (to_read, to_write):
            for end in pair:
                assert end > 4, "pytest holds 0 to 4"
        browser = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=place,
            pass_fds=(3, 4, to_read[0], to_write[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            yield Page(to_read[1], to_write[0])
        finally:
            os.close(to_read[1])
            os.close(to_write[0])
            browser.terminate()
            browser.wait(MOST_SECONDS)
