"""open_clip's resizing in numbers: to which size, which window of it, and how much padding.

Source: open_clip.transform.image_transform and the torchvision functions that it calls. Everything
here is integer or double arithmetic of theirs, rounding included: one pixel off shows in the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from clip_preprocess.settings import Interpolation, ResizeMode


@dataclass(frozen=True)
class Plan:
    """How a picture becomes `image_size`; sizes are (width, height), offsets (left, top).

    The whole picture is resized to `resized`; where that is smaller than the target it is padded by
    `padding` (left, top, right, bottom); then the target's window is cut out at `corner`.
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


def plan(
    source: tuple[int, int],
    image_size: tuple[int, int],
    resize_mode: ResizeMode,
    interpolation: Interpolation,
) -> Plan:
    """`source` is (width, height) in pixels, `image_size` is (height, width) as in the spec."""
    height, width = image_size
    if resize_mode == "squash":
        return Plan((width, height), (0, 0, 0, 0), (0, 0), (width, height), interpolation)
    if resize_mode == "shortest" and height == width:
        resized = _shortest_side(source, width)
    else:
        resized = _keep_ratio(source, (width, height), longest=resize_mode == "longest")
        if resize_mode == "shortest":
            # open_clip leaves the setting out for targets that are not square.
            interpolation = "bicubic"
    padding = _padding(resized, (width, height))
    padded = (resized[0] + padding[0] + padding[2], resized[1] + padding[1] + padding[3])
    corner = (round((padded[0] - width) / 2.0), round((padded[1] - height) / 2.0))
    return Plan(resized, padding, corner, (width, height), interpolation)


def _shortest_side(source: tuple[int, int], target: int) -> tuple[int, int]:
    """torchvision's Resize(int): the long side is cut off, not rounded."""
    width, height = source
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _keep_ratio(source: tuple[int, int], target: tuple[int, int], *, longest: bool) -> tuple[int, int]:
    """open_clip's ResizeKeepRatio: rounded to even halves. A side never becomes zero."""
    ratios = (source[0] / target[0], source[1] / target[1])
    ratio = max(ratios) if longest else min(ratios)
    return max(1, round(source[0] / ratio)), max(1, round(source[1] / ratio))


def _padding(resized: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    missing = (max(0, target[0] - resized[0]), max(0, target[1] - resized[1]))
    return missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2


def scale_for(source: tuple[int, int], wanted: Plan, margin: int, scales: tuple[int, ...]) -> int:
    """The largest divisor that leaves both sides at least `margin` times their resized size; else 1."""
    for scale in scales:
        if all(-(-side // scale) >= margin * new for side, new in zip(source, wanted.resized, strict=True)):
            return scale
    return 1


def rows_of_crop(height: int, wanted: Plan) -> tuple[int, int]:
    """The rows [first, last) of a picture `height` high that some pixel of the crop is made of, or more.

    Pillow's filters reach two rows (bicubic) at the resized scale, and never less than two of the source.
    """
    scale = height / wanted.resized[1]
    reach = 2 * max(scale, 1.0) + 2
    top = wanted.corner[1]
    first, last = top * scale - reach, (top + wanted.target[1]) * scale + reach
    return max(0, int(first)), min(height, int(last) + 1)
