"""An installed Chromium for tests of the console's page; a module that needs one begins with ``needs_chromium()``."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next((path for name in ('chromium', 'chromium-browser') if (path := shutil.which(name))), None)


def needs_chromium() -> Any:
    """playwright's synchronous interface; the module that calls is skipped where that or Chromium is missing."""
    if CHROMIUM is None:
        pytest.skip('no Chromium: install the package chromium of the system', allow_module_level=True)
    return pytest.importorskip(
        'playwright.sync_api', reason='playwright is not installed: pip install -r requirements/browser.txt'
    )


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    with needs_chromium().sync_playwright() as driver:
        sandbox = ['--no-sandbox'] if os.geteuid() == 0 else []  # Chromium has none for root
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--disable-gpu', *sandbox])
        yield browser
        browser.close()


def wait_on(page: Any, condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """As `wait_until`, but playwright's events go on meanwhile."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        said = page.locator('#said').inner_text()
        assert time.monotonic() < end, f'waited {timeout} s for {what}; the page says {said!r}'
        page.wait_for_timeout(20)
    return value
