"""The counters of a camera once every image has met its fate."""

from __future__ import annotations

from node_harness import Harness, wait_until

FATES = ('processed', 'dropped', 'malformed', 'failed')


def settled(harness: Harness, camera: str) -> dict[str, int]:
    """Counters of which every image that was received is in one of ``FATES``."""
    def counts() -> dict[str, int] | None:
        found = harness.counts(camera)
        return found if found['received'] == sum(found[fate] for fate in FATES) else None

    return wait_until(counts, 'every image to be counted')


def change(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """How far each counter went."""
    return {name: after[name] - before[name] for name in before}
