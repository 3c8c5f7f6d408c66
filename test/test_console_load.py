"""What the console costs the node: measured with and without a page that stands still.

The figures go to stalled_page.txt in the folder PVOS_ARTEFACTS, by default out/console.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from console_client import ConsoleClient
from console_page import ARTEFACTS
from console_street import Program, Street
from node_harness import mask_prompt, wait_until
from rclpy.task import Future
from robust_pvos_interfaces.srv import AddObject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RATE = 60.0  # pictures a second, more than the node can process: whatever it loses to the console shows
ROUNDS, WINDOW = 4, 12.0
SETTLE = 15.0  # seconds after which the console has noticed that the page stands still and reads no pictures
LEAST = 0.97


def rate(street: Street) -> float:
    """Frames a second that the node publishes, over a window."""
    before, begun = len(street.objects), time.monotonic()
    time.sleep(WINDOW)
    return (len(street.objects) - before) / (time.monotonic() - begun)


def add_object(street: Street) -> None:
    client = street.node.create_client(AddObject, '/robust_pvos/add_object')
    assert client.wait_for_service(20)
    mask = street.truth(str(max(street._shown)), 1)
    future: Future = client.call_async(AddObject.Request(prompt=mask_prompt(mask)))
    wait_until(future.done, 'the object', 60)
    assert future.result().success, future.result().message


def test_a_page_that_stands_still_does_not_slow_the_node(tmp_path: Path) -> None:
    street = Street(rate=RATE)
    node = Program(tmp_path, 'segmentation_node')
    console = Program(tmp_path, 'console.main', 'port:=0')
    try:
        node.start()
        wait_until(lambda: street.objects, 'the node to process pictures', 120)
        add_object(street)
        console.start()
        wait_until(lambda: 'http://127.0.0.1:' in console.log, 'the console to listen', 60)
        port = int(console.log.split('http://127.0.0.1:')[1].split('/')[0])
        time.sleep(5)
        without, stalled = [], []
        for _ in range(ROUNDS):
            without.append(rate(street))
            page = ConsoleClient(port, confirms=False)
            wait_until(lambda page=page: page.frames, 'a picture')  # type: ignore[misc]
            time.sleep(SETTLE)
            stalled.append(rate(street))
            assert page.frames <= 2
            page.close()
    finally:
        for program in (console, node):
            program.end()
        street.close()
    ratio = statistics.median(stalled) / statistics.median(without)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    text = ', '.join(f'{a:.2f} / {b:.2f}' for a, b in zip(without, stalled))
    (ARTEFACTS / 'stalled_page.txt').write_text(f'fps without / with a stalled page: {text}; ratio {ratio:.3f}\n')
    assert ratio >= LEAST, text
