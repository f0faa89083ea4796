"""What a request's last failure ends in: an error of its photos or of the run, which tells the way out."""

from __future__ import annotations

from clip_client import defaults
from clip_client.errors import ItemError, ServerBusy, ServerUnavailable
from clip_client.requests.backoff import Pace
from clip_client.requests.retry import Failure


def late(url: str, deadline_s: float, pace: Pace) -> ServerUnavailable:
    """For a request that had no turn, as those before it were refused or not answered."""
    if pace.is_held_back:
        return _busy(url, deadline_s)
    return _silent(url, deadline_s, "nor to the requests before this one")


def unavailable(url: str, deadline_s: float, failure: Failure) -> ServerUnavailable | None:
    """For the last failure of a call; None where the server is there and refused this call alone."""
    if failure.is_denied:
        return ServerUnavailable(
            f"the server at {url} turns this client away ({failure}). Does it want a header? "
            "Give one with ConnectionOptions(headers=...), or clip-embed --header NAME:VALUE"
        )
    if failure.is_refusal:
        return _busy(url, deadline_s)
    if failure.is_away or failure.is_passing:
        return _silent(url, deadline_s, str(failure))
    return None


def refused(failure: Failure, count: int) -> list[ItemError]:
    """For each of the `count` photos of a request that failed for their sake."""
    text = f"the server refused the request: {failure}"
    if failure.is_death:
        text = f"the server dies of it, {defaults.MAX_DEATHS} times while it had nothing else ({failure})"
    return [ItemError("request_failed", text) for _ in range(count)]


def _silent(url: str, deadline_s: float, cause: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"no answer from the server at {url} within {deadline_s:.0f} s ({cause}). {_advice(cause)}"
    )


def _advice(cause: str) -> str:
    if "handshake" in cause:
        return "Do the certificates fit? Give the server's with --root-certificates (ConnectionOptions)"
    if "Socket closed" in cause or "reset by peer" in cause:
        return "It hangs up: has it ended, or does it want TLS (--ssl) or a certificate of yours?"
    return "Is it running? Start one with: clip-serve --repository DIR"


def _busy(url: str, deadline_s: float) -> ServerBusy:
    return ServerBusy(
        f"the server at {url} was too busy for {deadline_s:.0f} s: its queue stayed full. Send fewer photos "
        "at once, or give it more instances"
    )
