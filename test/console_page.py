"""The console's page in a browser, as a person uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from console_chromium import wait_on
from console_street import Street

from robust_pvos_ros.demo.prompting import bounding_box, innermost_point, largest_part

ARTEFACTS = Path(os.environ.get('PVOS_ARTEFACTS', Path(__file__).resolve().parent.parent / 'out' / 'console'))


class Console:
    """The page, as a person uses it."""

    def __init__(self, browser: Any, address: str, street: Street, **options: Any) -> None:
        self.street = street
        self.context = browser.new_context(**{'viewport': {'width': 1280, 'height': 900}, **options})
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.on('console', self._listen)
        self.page.goto(address)
        self.page.wait_for_selector('.view[data-stamp]', timeout=30_000)

    def _listen(self, said: Any) -> None:
        if said.type == 'error':
            self.faults.append(said.text)

    @property
    def stamp(self) -> str:
        return str(self.page.locator('.view').get_attribute('data-stamp'))

    @property
    def drawn(self) -> set[int]:
        """IDs that have pixels in the picture on the screen."""
        text = self.page.locator('.view').get_attribute('data-ids') or ''
        return {int(word) for word in text.split()}

    @property
    def listed(self) -> list[int]:
        rows = '[...document.querySelectorAll("#list li")].map((row) => Number(row.dataset.id))'
        return list(self.page.evaluate(rows))

    @property
    def said(self) -> str:
        return self.page.locator('#said').inner_text()

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the camera is on the screen."""
        self.page.locator('.stage').scroll_into_view_if_needed()
        area = self.page.locator('.stage').bounding_box()
        return area['x'] + (x + 0.5) / 640 * area['width'], area['y'] + (y + 0.5) / 480 * area['height']

    def middle_of(self, which: int) -> tuple[float, float]:
        truth = largest_part(self.street.truth(self.stamp, which))
        return self.on_screen(*innermost_point(truth))

    def click(self, which: int) -> None:
        self.page.mouse.click(*self.middle_of(which))

    def drag(self, which: int) -> None:
        x0, y0, x1, y1 = map(float, bounding_box(self.street.truth(self.stamp, which)))
        self.page.mouse.move(*self.on_screen(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.on_screen((x0 + x1) / 2, (y0 + y1) / 2))
        self.page.mouse.move(*self.on_screen(x1 - 1, y1 - 1))
        self.page.mouse.up()

    def wait(self, condition: Any, what: str, timeout: float = 20.0) -> Any:
        return wait_on(self.page, condition, what, timeout)

    def add(self, which: int) -> int:
        """Click on an object of the scene and wait for its mask."""
        before = set(self.listed)
        self.click(which)
        self.wait(lambda: set(self.listed) - before, 'a new object in the list')
        (new,) = set(self.listed) - before
        self.wait(lambda: new in self.drawn, 'its mask')
        return new

    def picture(self, name: str) -> None:
        self.page.wait_for_timeout(300)  # colours fade in
        self.page.screenshot(path=ARTEFACTS / f'{name}.png')

    def reset(self) -> None:
        if self.listed:
            self.page.get_by_role('button', name='Reset').click()
            self.page.get_by_role('button', name='Remove all').click()
            self.wait(lambda: not self.listed, 'an empty list')

    def close(self) -> None:
        self.context.close()
        assert not self.faults, self.faults
