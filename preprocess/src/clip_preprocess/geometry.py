"""open_clip's resizing in numbers: the resized size, the window that is kept, and the padding.

Source: open_clip.transform.image_transform and the torchvision functions that it calls. The arithmetic is
theirs, rounding included: one pixel off shows in the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from clip_preprocess.settings import Interpolation, PreprocessSettings


@dataclass(frozen=True)
class Plan:
    """How a picture becomes `image_size`; sizes are (width, height), offsets (left, top).

    The whole picture is resized to `resized`, padded by `padding` (left, top, right, bottom) if that is
    smaller than the target, and the target is cut out at `corner`.
    """

    resized: tuple[int, int]
    padding: tuple[int, int, int, int]
    corner: tuple[int, int]
    target: tuple[int, int]
    interpolation: Interpolation

    @property
    def pads(self) -> bool:
        return any(self.padding)

    def source_box(self, source: tuple[float, float]) -> tuple[float, float, float, float]:
        """The crop (left, top, right, bottom) in coordinates of a picture of size `source`, unpadded."""
        scale_x, scale_y = source[0] / self.resized[0], source[1] / self.resized[1]
        left, top = self.corner
        return (
            left * scale_x,
            top * scale_y,
            min((left + self.target[0]) * scale_x, source[0]),
            min((top + self.target[1]) * scale_y, source[1]),
        )

    def rows_of_crop(self, height: int) -> tuple[int, int]:
        """The rows [first, last) of a picture `height` high that the crop depends on, or a few more.

        Pillow's bicubic filter reaches two rows at the resized scale, and at least two of the source.
        """
        scale = height / self.resized[1]
        reach = 2 * max(scale, 1.0) + 2
        top = self.corner[1]
        first, last = top * scale - reach, (top + self.target[1]) * scale + reach
        return max(0, int(first)), min(height, int(last) + 1)


def plan(source: tuple[int, int], settings: PreprocessSettings) -> Plan:
    """For a picture of `source` (width, height) pixels."""
    height, width = settings.image_size
    resize_mode, interpolation = settings.resize_mode, settings.interpolation
    if resize_mode == "squash":
        return Plan((width, height), (0, 0, 0, 0), (0, 0), (width, height), interpolation)
    if resize_mode == "shortest" and height == width:
        resized = _shortest_side(source, width)
    else:
        resized = _keep_ratio(source, (width, height), longest=resize_mode == "longest")
        if resize_mode == "shortest":
            # open_clip ignores the setting for targets that are not square.
            interpolation = "bicubic"
    padding = _padding(resized, (width, height))
    padded = (resized[0] + padding[0] + padding[2], resized[1] + padding[1] + padding[3])
    corner = (round((padded[0] - width) / 2.0), round((padded[1] - height) / 2.0))
    return Plan(resized, padding, corner, (width, height), interpolation)


def _shortest_side(source: tuple[int, int], target: int) -> tuple[int, int]:
    """torchvision's Resize(int): the long side is truncated, not rounded."""
    width, height = source
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _keep_ratio(source: tuple[int, int], target: tuple[int, int], *, longest: bool) -> tuple[int, int]:
    """open_clip's ResizeKeepRatio, which rounds halves to even; a side never becomes zero."""
    ratios = (source[0] / target[0], source[1] / target[1])
    ratio = max(ratios) if longest else min(ratios)
    return max(1, round(source[0] / ratio)), max(1, round(source[1] / ratio))


def _padding(resized: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    missing = (max(0, target[0] - resized[0]), max(0, target[1] - resized[1]))
    return missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2
