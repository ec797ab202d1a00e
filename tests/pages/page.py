"""A report as a reader sees it: opened in a real browser, scrolled through, clicked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PLACE = """
const [div, key] = [document.getElementById(arguments[0]), arguments[1]];
div.scrollIntoView({block: "center", behavior: "instant"});
const at = div.getBoundingClientRect();
for (const item of div._fullData) {
  const index = (item.customdata || []).findIndex((values) => values[1] === key);
  if (index < 0 || item.visible !== true) continue;
  const x = item.xaxis === "x" ? div._fullLayout.xaxis : div._fullLayout[item.xaxis.replace("x", "xaxis")];
  const y = item.yaxis === "y" ? div._fullLayout.yaxis : div._fullLayout[item.yaxis.replace("y", "yaxis")];
  return [at.left + x._offset + x.d2p(item.x[index]), at.top + y._offset + y.d2p(item.y[index])];
}
return null;
"""
"""Where a point of a figure is in the window, in px."""

SETTLED = """
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)));
"""
"""Waits until the page has drawn what it was asked to."""


class Page:
    """A page in a browser.

    Args:
        browser: selenium's driver.
        file: The HTML file.
    """

    def __init__(self, browser: Any, file: Path) -> None:
        self.browser, self._address = browser, file.resolve().as_uri()
        self.reload()

    def reload(self) -> None:
        """Opens it anew."""
        self.browser.get(self._address)
        self.settle()

    def show_on(self, width: int, scheme: str, height: int = 900) -> None:
        """Changes the screen.

        Args:
            width: In px.
            scheme: What the reader prefers, `light` or `dark`.
            height: In px.
        """
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.settle()

    def run(self, script: str, *arguments: Any) -> Any:
        """The answer of a script."""
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Waits until all is drawn."""
        self.browser.execute_async_script(SETTLED)

    def look_through(self) -> None:
        """Scrolls from top to bottom, as a reader does: figures are drawn when they come into sight."""
        self.run("for (const item of document.querySelectorAll('details')) item.open = true;")
        place = 0
        while place < self.run("return document.documentElement.scrollHeight"):
            self.run("scrollTo({top: arguments[0], behavior: 'instant'})", place)
            self.settle()
            place += 400
        self.run("scrollTo({top: 0, behavior: 'instant'})")
        self.settle()

    @property
    def drawn(self) -> list[str]:
        """The figures that are there and have data."""
        return list(
            self.run(
                "return [...document.querySelectorAll('.js-plotly-plot')].filter((div) => !div.hidden && "
                "div.data.some((item) => item.type === 'parcoords' || (item.x && item.x.some((x) => x !== null))) "
                "&& div.querySelector('svg')).map((div) => div.id)"
            )
        )

    @property
    def empty(self) -> list[str]:
        """The figures that are in sight and were not drawn."""
        return list(
            self.run(
                "return [...document.querySelectorAll('.figure')]"
                ".filter((div) => !div.hidden && !div.querySelector('svg')).map((div) => div.id)"
            )
        )

    @property
    def loaded(self) -> list[str]:
        """What the page has loaded beside itself."""
        return list(self.run("return performance.getEntriesByType('resource').map((entry) => entry.name)"))

    def complaints(self) -> list[str]:
        """What the browser has put on the console since it was last asked, but for remarks about its own graphics."""
        entries = self.browser.get_log("browser")
        return [entry["message"] for entry in entries if "GL Driver Message" not in entry["message"]]

    def click_point(self, figure: str, key: str) -> None:
        """Clicks a point of a figure with the mouse.

        Args:
            figure: Its id.
            key: The point's trial or control.
        """
        place = self.run(PLACE, figure, key)
        assert place is not None, f"{figure} has no point of {key}"
        self.settle()
        x, y = self.run(PLACE, figure, key)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **button})
            self.settle()

    def words(self, selector: str) -> str:
        """The text of an element."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def data(self, figure: str) -> list[dict[str, Any]]:
        """The traces of a drawn figure."""
        return list(self.run("return JSON.parse(JSON.stringify(document.getElementById(arguments[0]).data))", figure))
