"""Waits until a server is ready: it reports so, and it embeds the model's reference picture correctly."""

from __future__ import annotations

import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from clip_serving import defaults
from clip_serving.defaults import Tier
from clip_serving.errors import ServerError

if TYPE_CHECKING:
    from clip_client.check import CheckResult

_logger = logging.getLogger(__name__)
_POLL_S = 0.1


def wait_until_ready(
    http_url: str,
    *,
    ended: Callable[[], bool],
    explain: Callable[[], str],
    stopping: threading.Event,
    timeout_s: float,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Polls the server's readiness endpoint, and calls `on_progress` with the seconds so far.

    Raises ServerError if the server has `ended`, with the cause from `explain`; after `timeout_s` seconds;
    and if `stopping` is set.
    """
    begin = time.monotonic()
    while not _says_ready(http_url):
        elapsed = time.monotonic() - begin
        if on_progress:
            on_progress(elapsed)
        if ended():
            raise ServerError(explain())
        if elapsed > timeout_s:
            raise ServerError(f"tritonserver was not ready within {timeout_s:.0f} s. {explain()}")
        if stopping.wait(_POLL_S):
            raise ServerError("stopped while the server was starting")


def _says_ready(http_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http_url}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def check_reference(
    grpc_url: str,
    *,
    model: str = defaults.ENSEMBLE,
    running: Callable[[], bool],
    tier: Tier | None = None,
    waits_s: Sequence[float] = defaults.CHECK_WAITS_S,
) -> bool:
    """Whether a ready server embedded the reference picture; False if it is too busy to answer.

    A decode tier decodes it, and for an encode tier this process does.

    A busy server works, so restarting it would not help. Raises ServerError if the embedding is wrong, or
    if there is no answer within `waits_s` seconds (one attempt each) or while the server is `running`.
    """
    from clip_client.check import check
    from clip_client.errors import ClipClientError, ServerBusy

    of = "" if model == defaults.ENSEMBLE else f" with {model}"
    try:
        result = _check_patiently(partial(check, grpc_url, model=model, tier=tier), running, waits_s)
    except ServerBusy as error:
        _logger.warning("the server was not checked because it is too busy: %s", error)
        return False
    except ClipClientError as error:
        raise ServerError(f"the server became ready but cannot embed{of}: {error}") from error
    if not result.ok:
        raise ServerError(f"the server embeds incorrectly{of}: {result.message}")
    return True


def _check_patiently(
    check: Callable[..., CheckResult], running: Callable[[], bool], waits_s: Sequence[float]
) -> CheckResult:
    """Tries again if there is no answer: under load, the picture queues behind other requests."""
    from clip_client.errors import ServerBusy, ServerUnavailable

    *first, last = waits_s
    for wait_s in first:
        try:
            return check(wait_s=wait_s)
        except ServerBusy:
            raise
        except ServerUnavailable:
            if not running():
                raise
    return check(wait_s=last)
