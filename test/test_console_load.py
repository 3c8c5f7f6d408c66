"""What the console costs the node: measured without a page, with one that stands still, and with a slow one.

The figures go to stalled_page.txt and slow_page.txt in the folder PVOS_ARTEFACTS, by default out/console.
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
PAUSE = 2.5  # seconds that the slow page takes for a frame: too long for a moving picture, too short to stand still
LEAST_SLOW = 0.9  # for the slow page pictures are read at the camera's rate, which takes its share of a busy machine


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


def report(name: str, without: list[float], beside: list[float]) -> float:
    """Ratio of the medians, which is written down."""
    ratio = statistics.median(beside) / statistics.median(without)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    text = ', '.join(f'{a:.2f} / {b:.2f}' for a, b in zip(without, beside))
    (ARTEFACTS / f'{name}_page.txt').write_text(f'fps without / with a {name} page: {text}; ratio {ratio:.3f}\n')
    return ratio


def test_pages_that_stand_still_or_are_slow_do_not_slow_the_node(tmp_path: Path) -> None:
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
        without, stalled, slow = [], [], []
        for _ in range(ROUNDS):
            without.append(rate(street))
            page = ConsoleClient(port, confirms=False)
            wait_until(lambda page=page: page.frames, 'a picture')  # type: ignore[misc]
            time.sleep(SETTLE)
            stalled.append(rate(street))
            assert page.frames <= 2
            page.close()
            page = ConsoleClient(port, pause=PAUSE)
            wait_until(lambda page=page: page.frames >= 2, 'the first pictures')  # type: ignore[misc]
            before = page.frames
            slow.append(rate(street))
            shown = page.frames - before
            page.close()
            time.sleep(SETTLE)  # pictures are read a little longer than somebody looks
            assert WINDOW / PAUSE - 2 <= shown <= WINDOW / PAUSE + 1, f'{shown} pictures, one for each it was done with'
    finally:
        for program in (console, node):
            program.end()
        street.close()
    ratios = report('stalled', without, stalled), report('slow', without, slow)
    assert ratios[0] >= LEAST and ratios[1] >= LEAST_SLOW, ratios
