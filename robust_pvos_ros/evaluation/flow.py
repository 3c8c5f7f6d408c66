"""The baseline without a model: dense optical flow carries the masks of the first frame along."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from robust_pvos_ros.evaluation.metrics import EvaluationError


class FlowTracker:
    """Propagates masks frame by frame with DIS optical flow (Kroeger et al., ECCV 2016; ``cv2.DISOpticalFlow``).

    The flow runs backwards, from the current frame to the previous one, so that every pixel asks where it came from
    and no holes appear; its search starts from the flow of the frame before.  Masks stay soft between frames and are
    cut at one half for the output only: cutting them on every step loses a little of thin parts each time.  What
    enters at the border of the image continues what was there.  Of the usual formulations this one carries masks
    farthest.  Memory is one grey image, one flow field and one float mask per object.
    """

    def __init__(self, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) -> None:
        self._dis = cv2.DISOpticalFlow.create(preset)
        self._grey: np.ndarray | None = None
        self._flow: np.ndarray = np.zeros((0, 0, 2), np.float32)
        self._grid: np.ndarray = np.zeros((2, 0, 0), np.float32)  # row and column of every pixel
        self._soft_masks: dict[int, np.ndarray] = {}

    def step(self, rgb: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """Carry all masks to the next frame, then take in those given for it.

        Args:
            rgb: uint8 (H, W, 3).
            masks: object ID -> bool (H, W) true mask on this frame, for objects that start here.

        Returns:
            uint16 (H, W) object ID at each pixel, 0 background; the largest soft mask wins an overlap.

        Raises:
            EvaluationError: if the image or a mask does not have the size of the first frame.
        """
        self._check(rgb, masks)
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if self._grey is None:
            self._grid = np.indices(grey.shape).astype(np.float32)
            self._flow = np.zeros((*grey.shape, 2), np.float32)
        elif self._soft_masks:
            self._flow = self._dis.calc(grey, self._grey, self._flow)
            came_from = self._grid[1] + self._flow[..., 0], self._grid[0] + self._flow[..., 1]
            for object_id, soft in self._soft_masks.items():
                self._soft_masks[object_id] = cv2.remap(
                    soft, *came_from, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
        self._grey = grey
        for object_id, mask in masks.items():
            self._soft_masks[object_id] = mask.astype(np.float32)
        return self._labels(grey.shape)

    def _labels(self, shape: tuple[int, ...]) -> np.ndarray:
        labels = np.zeros(shape, np.uint16)
        strongest = np.full(shape, 0.5, np.float32)
        for object_id, soft in self._soft_masks.items():
            wins = soft >= strongest
            labels[wins] = object_id
            np.maximum(strongest, soft, out=strongest)
        return labels

    def _check(self, rgb: np.ndarray, masks: Mapping[int, np.ndarray]) -> None:
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise EvaluationError(f'the image must be uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}')
        size = rgb.shape[:2] if self._grey is None else self._grey.shape
        if rgb.shape[:2] != size:
            raise EvaluationError(f'all frames must have one size: this one is {rgb.shape[:2]}, the first was {size}')
        for object_id, mask in masks.items():
            if mask.shape != size:
                raise EvaluationError(f'the mask of object {object_id} is {mask.shape}, but the image is {size}')
