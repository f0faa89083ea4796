"""From an encoded photo to the encoder's pixels, stage by stage: sniff, check, decode, fit.

Each stage returns a value: a Format, a Header, a Decoded, pixels.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_preprocess import defaults, jpeg, limits, pillow_decoder, unsupported
from clip_preprocess.deadline import DeadlinePool, NewExecutor, new_executor
from clip_preprocess.decoded import Decoded
from clip_preprocess.errors import ErrorCode, ItemError, SettingsError, forget
from clip_preprocess.formats import FORMATS, Format, sniff, without_stray_start
from clip_preprocess.headers.base import Data, Header
from clip_preprocess.headers.jpeg import JpegHeader
from clip_preprocess.notices import Notice, NoticeCode, one_per_code
from clip_preprocess.resample import Pixels, fit
from clip_preprocess.settings import PreprocessSettings

_log = logging.getLogger(__name__)
_LATE = 65536
"""Bytes of an unknown file that are searched for a JPEG, to name it in the error."""


@dataclass(frozen=True)
class Outcome:
    """The result for one photo, apart from its pixels, and what it cost."""

    error: ItemError | None = None
    """The reason why the photo has no pixels; None if it has."""
    format: str = ""
    """Its format by content; empty if unknown."""
    pixels: int = 0
    """Pixels decoded: fewer than the photo has if it was decoded at a reduced scale."""
    decode_s: float = 0.0
    preprocess_s: float = 0.0
    """Seconds for orientation, resize and crop."""
    notices: tuple[Notice, ...] = ()
    """Remarks about a photo that has pixels, one per code."""
    width: int = 0
    """As stored, before EXIF orientation; of TIFF and HEIC after it. 0, like `height`, if unknown."""
    height: int = 0
    scale: int = 0
    """The divisor of both sides in decoding: 1, 2, 4 or 8; 0 if nothing was decoded."""

    @property
    def valid(self) -> bool:
        """Whether the photo has pixels."""
        return self.error is None


class Preprocessor:
    """Encoded photos to pixels: one at a time as open_clip's image transform, or in batches on threads.

    `preprocess(photo)` takes the bytes of a file and returns what open_clip's transform returns for the
    opened picture, as NumPy: float32 [3,H,W], normalized. `run(photos, out)` is for batches that must not
    fail for one bad file: uint8 [N,H,W,3], and an Outcome per photo.
    """

    def __init__(
        self,
        settings: PreprocessSettings,
        threads: int = 1,
        on_photo: Callable[[], None] | None = None,
        *,
        mean: Sequence[float] = defaults.MEAN,
        std: Sequence[float] = defaults.STD,
        executor: NewExecutor = new_executor,
    ) -> None:
        """`mean` and `std` are per channel, for pixels from 0 to 1; run() does not use them.

        Raises SettingsError if they are not three numbers each.
        `on_photo` is called when run() begins each photo, so that a watchdog sees that the process is alive.
        `executor` starts the threads of run(); by default, Python waits for them when it exits.
        """
        self.settings = settings
        try:
            self._mean = np.array(mean, np.float32).reshape(3, 1, 1)
            self._std = np.array(std, np.float32).reshape(3, 1, 1)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"mean and std must be three numbers each: {mean}, {std}") from error
        if threads < 1:
            raise SettingsError(f"threads is {threads}, and must be at least 1")
        self._threads = threads
        self._on_photo = on_photo
        self._executor = executor
        self._pools: dict[int, DeadlinePool] = {}

    @classmethod
    def for_open_clip(cls, config: Mapping[str, Any], threads: int = 1, **overrides: Any) -> Preprocessor:
        """From `model.visual.preprocess_cfg` of an open_clip model; missing keys have open_clip's defaults.

        `overrides` are fields of PreprocessSettings, such as quality="high". EXIF orientation is applied,
        which open_clip does not do; apply_exif_orientation=False leaves it alone. Raises SettingsError.
        """
        settings = PreprocessSettings.from_open_clip(config, **overrides)
        mean, std = config.get("mean", defaults.MEAN), config.get("std", defaults.STD)
        return cls(settings, threads, mean=mean, std=std)

    def __call__(self, photo: Data) -> npt.NDArray[np.float32]:
        """One photo as float32 [3,H,W], normalized, on the calling thread and without a deadline.

        Raises ItemError, and TypeError for anything but the bytes of a file.
        """
        pixels = preprocess_one(_bytes_of(photo), self.settings).transpose(2, 0, 1)
        normalized: npt.NDArray[np.float32] = (pixels / np.float32(255) - self._mean) / self._std
        return normalized

    def run(self, images: Sequence[Data], out: Pixels) -> list[Outcome]:
        """Writes row i of `out`, uint8 [N,H,W,3], from photo i; the row of a failed photo is zero.

        Never raises for a photo: its error is in its Outcome. Raises TypeError for anything else in `images`.
        """
        photos = [_bytes_of(image) for image in images]

        def work(index: int) -> tuple[Outcome, Pixels | int]:
            if self._on_photo is not None:
                self._on_photo()
            return _preprocess(photos[index], self.settings)

        outcomes = []
        for index, result in enumerate(self._pool.run(work, len(photos))):
            outcome, out[index] = result or (self._timed_out(photos[index]), 0)
            outcomes.append(outcome)
        return outcomes

    @property
    def stuck(self) -> int:
        """Threads still busy with photos that were given up as `decode_timeout`."""
        return self._pool.stuck

    def close(self) -> None:
        """Ends the threads of run()."""
        self._pool.close()

    @property
    def _pool(self) -> DeadlinePool:
        """Made when this process first uses it: a forked process does not have its parent's threads."""
        process = os.getpid()
        if process not in self._pools:
            timeout_s = self.settings.limits.decode_timeout_s
            self._pools = {process: DeadlinePool(self._threads, timeout_s, self._executor)}
        return self._pools[process]

    def __getstate__(self) -> dict[str, Any]:
        """Without threads, so that a DataLoader can pickle it for its workers."""
        return {**vars(self), "_pools": {}}

    def _timed_out(self, photo: Data) -> Outcome:
        timeout_s = self.settings.limits.decode_timeout_s
        text = f"{len(photo):,} bytes took longer than {timeout_s:g} s"
        error = ItemError(ErrorCode.DECODE_TIMEOUT, text)
        return Outcome(error, _name(sniff(photo)), decode_s=timeout_s)


def _bytes_of(photo: object) -> Data:
    """The bytes of any buffer, such as a NumPy array, not copied.

    Raises TypeError for a path or an opened picture, which open_clip's transform would take.
    """
    if isinstance(photo, bytes):
        return photo
    try:
        view = memoryview(photo)  # type: ignore[arg-type]
    except TypeError:
        view = None
    if view is None or view.ndim != 1 or view.itemsize != 1 or not view.c_contiguous:
        raise TypeError(
            f"a photo must be the bytes of its encoded file, not {type(photo).__name__}. "
            "Read a path with: Path(name).read_bytes()"
        )
    return view.cast("B")


def preprocess_one(photo: Data, settings: PreprocessSettings) -> Pixels:
    """One encoded photo to uint8 [H,W,3], RGB. Raises ItemError."""
    kind, header = _check(photo, sniff(photo), settings)
    return fit(_decode(photo, kind, header, settings), settings)


def _preprocess(photo: Data, settings: PreprocessSettings) -> tuple[Outcome, Pixels | int]:
    """One photo's outcome and pixels uint8 [H,W,3]; 0 if it has none. Never raises."""
    started = time.perf_counter()
    sniffed = sniff(photo)
    header = None
    decoded_at = 0.0
    try:
        kind, header = _check(photo, sniffed, settings)
        decoded = _decode(photo, kind, header, settings)
        decoded_at = time.perf_counter()
        pixels = fit(decoded, settings)
        notices = decoded.notices + _single_color(pixels, decoded, settings)
    except Exception as raised:
        decode_s = (decoded_at or time.perf_counter()) - started
        width, height = _possible(header.size) if header else (0, 0)
        error = _item_error(raised, photo)
        outcome = Outcome(error, _name(sniffed), decode_s=decode_s, width=width, height=height)
        forget(raised)
        return outcome, 0
    width, height = header.size if header else decoded.size
    return Outcome(
        None,
        kind.name,
        decoded.picture.width * decoded.picture.height,
        decoded_at - started,
        time.perf_counter() - decoded_at,
        notices,
        width,
        height,
        decoded.scale,
    ), pixels


def _check(photo: Data, kind: Format | None, settings: PreprocessSettings) -> tuple[Format, Header | None]:
    """Checks the photo's length, and reads its header if its format has a reader. Raises ItemError."""
    limits.check_bytes(len(photo), settings.limits.max_bytes)
    if kind is None:
        names = ", ".join(each.name for each in FORMATS)
        found = unsupported.name_of(photo)
        what = f"is of type {found}, which" if found else f"({len(photo):,} bytes)"
        late = bytes(photo[:_LATE]).find(b"\xff\xd8\xff")
        inside = f"; a JPEG starts at byte {late:,}" if late > 0 else ""
        raise ItemError(ErrorCode.UNSUPPORTED_FORMAT, f"the content {what} is not one of {names}{inside}")
    photo, _ = without_stray_start(photo)
    return kind, kind.read_header(photo, settings.allow_truncated) if kind.read_header else None


def _decode(photo: Data, kind: Format, header: Header | None, settings: PreprocessSettings) -> Decoded:
    """The photo, with the notices of its header. Raises ItemError."""
    photo, stray = without_stray_start(photo)
    if isinstance(header, JpegHeader):
        decoded = jpeg.decode(photo, header, settings)
    else:
        if header is not None:
            limits.check_sides(kind.name, header.size, settings.limits.max_pixels)
        decoded = pillow_decoder.decode(photo, kind, header, settings)
    notices = (*stray, *(header.notices if header else ()), *decoded.notices)
    if any(notice.code is NoticeCode.TRUNCATED for notice in notices):
        notices = tuple(notice for notice in notices if notice.code is not NoticeCode.MISSING_END)
    return dataclasses.replace(decoded, notices=one_per_code(notices)) if notices else decoded


def _single_color(pixels: Pixels, decoded: Decoded, settings: PreprocessSettings) -> tuple[Notice, ...]:
    """A notice if all pixels are the same. The first row answers for almost every photo."""
    first = pixels[0, 0]
    if (pixels[0] != first).any() or (pixels != first).any():
        return ()
    text = "all pixels are #{:02x}{:02x}{:02x} after preprocessing".format(*first)
    if decoded.picture.has_transparency_data:
        text += f"; the picture is transparent, and the setting background is {settings.background}"
    return (Notice(NoticeCode.SINGLE_COLOR, text),)


def _possible(size: tuple[int, int]) -> tuple[int, int]:
    """A rejected header may declare sides that are negative, or that no 32 bits hold: (0, 0) for those."""
    return size if all(0 < side < 2**31 for side in size) else (0, 0)


def _name(kind: Format | None) -> str:
    return kind.name if kind else ""


def _item_error(raised: Exception, photo: Data) -> ItemError:
    """A copy of an ItemError without its traceback; `internal` for anything else, which is logged."""
    if isinstance(raised, ItemError):
        return ItemError(raised.code, raised.text)
    _log.error("a photo of %d bytes could not be preprocessed", len(photo), exc_info=raised)
    return ItemError(ErrorCode.INTERNAL, "internal error; the traceback is in the server's log")
