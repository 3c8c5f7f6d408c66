"""Methods that share an encoder: frames are encoded once for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.model import Sam2Model


class EncodedOnce:
    """Feature maps of the newest frame, for several methods with one and the same encoder that see it in turn."""

    def __init__(self, model: Sam2Model) -> None:
        self._model = model
        self._rgb: np.ndarray | None = None
        self._maps: EncoderOutput | None = None

    def __call__(self, rgb: np.ndarray) -> EncoderOutput:
        """Maps of a frame, uint8 (H, W, 3); those of the call before where it is the very same array."""
        if self._maps is None or rgb is not self._rgb:
            self._rgb, self._maps = rgb, self._model.encode(rgb)
        return self._maps


def encoder_weights(model: Sam2Model) -> dict[str, torch.Tensor]:
    """The weights that feature maps come from; an adapter may bring LayerNorms of its own to them."""
    parts = ('image_encoder.', 'sam_mask_decoder.conv_s')
    return {name: value for name, value in model.sam.state_dict().items() if name.startswith(parts)}


def shared_encoders(models: Mapping[str, Sam2Model]) -> dict[str, EncodedOnce]:
    """Method -> what encodes for it, one for all methods whose encoders are equal."""
    known: list[tuple[dict[str, torch.Tensor], EncodedOnce]] = []
    found = {}
    for method, model in models.items():
        own = encoder_weights(model)
        same = (e for w, e in known if w.keys() == own.keys() and all(torch.equal(w[n], own[n]) for n in w))
        shared = next(same, None)
        if shared is None:
            shared = EncodedOnce(model)
            known.append((own, shared))
        found[method] = shared
    return found
