"""What is known of every setting, round and kind of arrivals, and so need not be measured."""

from __future__ import annotations

from clip_profile.records.measurement import Failure, Measurement
from clip_profile.records.run_folder import Key, RunFolder, key_of
from clip_profile.records.setting import Setting


class Ledger:
    """A run folder's records by key; with `retry_failed` its failures are as if they had not been."""

    def __init__(self, run: RunFolder, *, retry_failed: bool = False) -> None:
        self._run = run
        self._records: dict[Key, Measurement | Failure] = {key_of(one): one for one in run.measurements}
        if not retry_failed:
            self._records.update((key_of(one), one) for one in run.failures)
        self._rates: dict[Setting, float] = {}
        for one in run.measurements:
            self._rate(one)

    def add(self, record: Measurement | Failure) -> None:
        """Into the folder too, before anything else can happen to it."""
        self._run.add(record)
        self._records[key_of(record)] = record
        if isinstance(record, Measurement):
            self._rate(record)

    def _rate(self, one: Measurement) -> None:
        server = one.setting.server
        self._rates[server] = max(one.photos_per_s, self._rates.get(server, 0.0))

    def __contains__(self, key: Key) -> bool:
        return key in self._records

    def measurement(self, key: Key) -> Measurement | None:
        record = self._records.get(key)
        return record if isinstance(record, Measurement) else None

    def searched(self) -> dict[Setting, Measurement | None]:
        """What the search and the frontier found; None for what failed."""
        keys = [key for key in self._records if key[1:] == (0, "closed")]
        return {key[0]: self.measurement(key) for key in keys}

    def to_retry(self) -> list[Setting]:
        """Settings whose failure in the search or on the frontier is to be forgotten."""
        failed = [one for one in self._run.failures if one.round == 0 and one.arrival == "closed"]
        return [one.setting for one in failed if key_of(one) not in self._records]

    def rounds_to_retry(self) -> list[tuple[Setting, int]]:
        """The same of rounds, and each round."""
        failed = [one for one in self._run.failures if one.round > 0 and key_of(one) not in self._records]
        return list(dict.fromkeys((one.setting, one.round) for one in failed))

    def last_round(self) -> int:
        return max((number for _, number, _ in self._records), default=0)

    def rate(self, setting: Setting, warm: float = 0.0) -> float:
        """Photos a second to expect of it: the most that its server, or else any, did; 0 if none has yet.

        `warm` is what its server did while it was warmed up.
        """
        same = max(warm, self._rates.get(setting.server, 0.0))
        return same or max(self._rates.values(), default=0.0)
