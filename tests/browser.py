"""A real Chromium without a window, for tests of pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from tests.programs import require_program

WAIT_S = 20.0
# Without these it speaks to its makers, asks questions, or wants what a container does not have.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)


class Browser:
    """One window of Chromium.

    Attributes:
        driver: Selenium's; it finds elements, clicks and types.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Goes to a page and waits until it is loaded. What earlier pages logged is forgotten."""
        self.driver.get("about:blank")
        self.problems()
        self.requests()
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """Runs JavaScript in the page; gives what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait_until(self, condition: str) -> None:
        """Waits until a JavaScript expression holds in the page.

        Raises:
            selenium.common.TimeoutException: it did not in ``WAIT_S`` seconds.
        """
        script = f"return Boolean({condition})"
        WebDriverWait(self.driver, WAIT_S).until(lambda driver: driver.execute_script(script), f"not: {condition}")

    def resize(self, width_px: int, height_px: int, *, phone: bool = False) -> None:
        """Gives the page this many CSS pixels; as a phone it heeds the page's viewport and has a finger for a mouse."""
        metrics = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": phone}
        self._command("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: Literal["light", "dark"]) -> None:
        """Sets the user's wish in ``prefers-color-scheme``."""
        self._command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def problems(self) -> list[str]:
        """What the console has of errors and warnings since the last call: exceptions and failed requests too."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """The addresses that pages asked for since the last call, their own and those of what they load."""
        log = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        events = [json.loads(entry["message"])["message"] for entry in log]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        # The empty tab that Chromium starts with loads parts of its own, in its own time.
        return [url for url in urls if not url.startswith("chrome://")]

    def screenshot(self, path: Path) -> None:
        """Writes what the window shows as PNG."""
        assert self.driver.save_screenshot(str(path)), path

    def _command(self, name: str, parameters: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(name, parameters)


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Runs Chromium. Without it, or its driver, the test is skipped, or fails where ``CELLSERVE_REQUIRE_ALL`` is set.

    Args:
        profile: an empty folder of its own.
    """
    options = ChromeOptions()
    options.binary_location = require_program("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(require_program("chromedriver")))
    try:
        driver.set_page_load_timeout(WAIT_S)
        driver.set_script_timeout(WAIT_S)
        yield Browser(driver)
    finally:
        driver.quit()
