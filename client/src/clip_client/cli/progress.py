"""The progress line of `clip-embed`."""

from __future__ import annotations

from tqdm import tqdm

from clip_client.sinks.base import EmbeddedObject


class Progress:
    """A progress line with the number of errors, on a terminal; cleared before anything else is printed."""

    def __init__(self, *, quiet: bool) -> None:
        # The delay keeps a run that fails at once from drawing an empty bar above its error.
        self._bar = tqdm(
            unit=" photos",
            bar_format=_COUNTED,
            disable=True if quiet else None,  # None: drawn only on a terminal
            dynamic_ncols=True,
            mininterval=0.5,
            delay=0.5,
            leave=False,
        )
        self._errors = 0
        self.on_total = None if self._bar.disable else self._total
        """For embed_all(); None if nothing is drawn, to save the second listing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, item: EmbeddedObject) -> None:
        if self._bar.total is not None and self._bar.n >= self._bar.total:
            self._bar.total = self._bar.n + 1  # more objects than were counted
        self._bar.update()
        if item.error:
            self._errors += 1
            self._bar.set_postfix(errors=self._errors, refresh=False)

    def _total(self, count: int, is_all: bool) -> None:
        self._bar.total = count
        self._bar.bar_format = _OF_ALL if is_all else _OF_AT_LEAST


_RATE = "{rate_noinv_fmt}{postfix}]"
_COUNTED = "photos: {n_fmt} [{elapsed}, " + _RATE
_OF_AT_LEAST = "photos: {n_fmt} of at least {total_fmt} [{elapsed}, " + _RATE
_OF_ALL = "photos: {n_fmt} of {total_fmt}, {percentage:.0f}% [{elapsed}, {remaining} left, " + _RATE
