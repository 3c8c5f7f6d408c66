"""Dense correspondence between frames of rendered clips: the image encoder learns what it has to match before masks.

The renderer knows where every visible point of a frame lies in any other frame, so each cell of a feature map is a
labelled example.  InfoNCE (van den Oord et al. 2018) attracts the features of the same point and repels those of all
other points of the same clip.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.video import Clips


def corresponding_points(clips: Clips, first: Tensor, second: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where the content of the cells of one frame lies in another.

    Args:
        first, second: int64 (B,) frame indices of each clip.
        side: cells along each axis.

    Returns:
        places float32 (B, side * side, 2) of the cells of ``second`` in frame ``first``, x and y in [-1, 1], and
        visible bool (B, side * side): the point lies inside ``first`` and nothing hides it there.
    """
    device, batch = clips.layers.device, torch.arange(len(first), device=clips.layers.device)
    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    cells = torch.stack([x, y], -1).view(1, -1, 2).expand(len(batch), -1, -1)
    layer = _look_up(clips.layers[batch, second], cells)
    there, here = (clips.maps[batch, t].gather(1, layer[..., None, None].expand(-1, -1, 2, 3)) for t in (first, second))
    content = (here[..., :2] @ cells[..., None])[..., 0] + here[..., 2]
    places = torch.linalg.solve(there[..., :2], (content - there[..., 2])[..., None])[..., 0]
    inside = places.abs().amax(-1) < 1
    return places, inside & (_look_up(clips.layers[batch, first], places) == layer)


def _look_up(layers: Tensor, places: Tensor) -> Tensor:
    """int64 (B, n) values of ``layers`` (B, S, S) at the nearest pixel to ``places`` (B, n, 2)."""
    size = layers.shape[-1]
    column, row = (((places + 1) * (size / 2)).long().clamp(0, size - 1)).unbind(-1)
    return layers.flatten(1).gather(1, row * size + column).long()


def correspondence_loss(
    features: Tensor, clips: Clips, generator: torch.Generator, temperature: float = 0.07, cells: int = 256
) -> Tensor:
    """InfoNCE between a random pair of frames of every clip.

    Args:
        features: (B, T, C, h, h) feature maps of ``clips``.
        cells: at most so many of the h * h cells of the second frame are matched, drawn at random.

    Returns:
        scalar float32: mean over the drawn cells of the second frames that are visible in the first ones.
    """
    batch, frames, _, side, _ = features.shape
    device = features.device
    order = torch.rand(batch, frames, generator=generator).argsort(1).to(device)
    first, second = order[:, 0], order[:, 1]
    drawn = torch.randperm(side * side, generator=generator)[:cells].to(device)
    places, visible = (x[:, drawn] for x in corresponding_points(clips, first, second, side))
    rows = torch.arange(batch, device=device)
    before, after = features[rows, first].float(), features[rows, second].float()
    queries = F.normalize(after.flatten(2)[:, :, drawn], dim=1)
    keys = F.normalize(F.grid_sample(before, places[:, None], align_corners=False)[:, :, 0], dim=1)
    logits, hidden = queries.mT @ keys, ~visible
    if batch > 1:
        others = F.normalize(before.flatten(2), dim=1).roll(1, 0)  # of another clip
        logits = torch.cat([logits, queries.mT @ others], 2)
        hidden = torch.cat([hidden, torch.zeros_like(visible[:, :1]).expand(-1, side * side)], 1)
    logits = (logits / temperature).masked_fill(hidden[:, None], float('-inf'))
    target = torch.arange(len(drawn), device=device).expand(batch, -1)
    return F.cross_entropy(logits[visible], target[visible], reduction='sum') / visible.sum().clamp(min=1)


@torch.no_grad()
def matching_accuracy(features: Tensor, clips: Clips) -> float:
    """Share of the visible cells of the last frame whose best match in the first lies within 1.5 cells of the truth."""
    batch, frames, _, side, _ = features.shape
    first = torch.zeros(batch, dtype=torch.int64, device=features.device)
    places, visible = corresponding_points(clips, first, first + frames - 1, side)
    queries, keys = (F.normalize(features[:, t].flatten(2).float(), dim=1) for t in (-1, 0))
    best = (queries.mT @ keys).argmax(2)
    found = torch.stack([best % side, best // side], -1) + 0.5
    wanted = (places + 1) * (side / 2)
    return float(((found - wanted).norm(dim=-1) < 1.5)[visible].float().mean())


def attention_loss(logits: Tensor, clips: Clips, rows: Tensor, frame: int) -> Tensor:
    """How little of the attention of every cell falls on the places in memory where its content was.

    Args:
        logits: (N, h * h, t * h * h) attention of the cells of frame ``frame`` to the spatial memories of the frames
            0 .. t - 1 before it, before the softmax.
        rows: int64 (N,) clip of each object.

    Returns:
        scalar float32: mean negative logarithm of the attention on the four cells around the right place, weighted
        bilinearly and summed over the remembered frames, for the cells that are visible in any of them.
    """
    side, count = round(logits.shape[1] ** 0.5), len(clips.layers)
    attention = logits.float().softmax(-1).unflatten(-1, (frame, side * side))
    now = torch.full((count,), frame, device=logits.device)
    mass = torch.zeros(logits.shape[:2], device=logits.device)
    seen = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
    for past in range(frame):
        places, visible = corresponding_points(clips, torch.full_like(now, past), now, side)
        index, weight = (x[rows] for x in _bilinear(places, side))
        visible = visible[rows]
        found = (attention[:, :, past].gather(2, index) * weight).sum(2)
        mass = mass + torch.where(visible, found, 0.0)
        seen |= visible
    return -((mass + 1e-6).log() * seen).sum() / seen.sum().clamp(min=1)


def _bilinear(places: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Indices int64 and weights (B, n, 4) of the cells around ``places`` (B, n, 2), cells outside with weight 0."""
    position = (places + 1) * (side / 2) - 0.5
    low = position.floor()
    share = position - low
    indices, weights = [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = low[..., 0] + dx, low[..., 1] + dy
        inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
        indices.append((y.clamp(0, side - 1) * side + x.clamp(0, side - 1)).long())
        weights.append(weight * inside)
    return torch.stack(indices, -1), torch.stack(weights, -1)
