"""Compares clip-profile's Gaussian-process search with Optuna's TPE and with random search.

All three look for the best setting of simulated services (testing/surfaces.py) whose best setting is known.
A run is one noisy measurement of a setting. A method hits if one of its three finalists, which a sweep would
repeat, is truly within 5 % of the best. The table says after how many runs a method hits on a share of the
surfaces. The Gaussian-process search stops on its own; the others use all --runs.

Optuna is not a dependency of the project. Install it into a folder of its own, and remove that afterwards:

    python3 -m pip install --target build/optuna -c constraints.txt optuna
    PYTHONPATH=build/optuna .venv/bin/python -m benchmarks.search_methods
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from clip_profile.records.setting import NOMINAL, Setting, Space
from clip_profile.sweep.search import Search
from testing.surfaces import SPACES, noisy, start_of, surface

NOISE = 0.03
FINALISTS = 3
WITHIN = 0.95
SHARES = (0.8, 0.9, 0.95, 1.0)
"""Of the surfaces."""
_MOST_WASTED = 5
"""Proposals in a row that TPE may waste before a random setting is measured."""

Measure = Callable[[Setting], float]
Method = Callable[[Space, Setting, Measure, int], Iterator[list[Setting]]]
"""Yields the finalists after each run."""


def gaussian_process(space: Space, start: Setting, measure: Measure, seed: int) -> Iterator[list[Setting]]:
    """Stops on its own; deterministic."""
    del seed
    search = Search(space, start)
    while (setting := search.next()) is not None:
        search.add(setting, measure(setting))
        yield search.best(FINALISTS)


def random_search(space: Space, start: Setting, measure: Measure, seed: int) -> Iterator[list[Setting]]:
    points = space.points()
    order = [points[i] for i in np.random.default_rng(seed).permutation(len(points))]
    found: dict[Setting, float] = {}
    for setting in [start, *(point for point in order if point != start)]:
        found[setting] = measure(setting)
        yield _best(found)


def tpe(
    space: Space, start: Setting, measure: Measure, seed: int, *, multivariate: bool = False
) -> Iterator[list[Setting]]:
    """Proposals that cannot work or are known already cost nothing, up to _MOST_WASTED in a row."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=multivariate)
    )
    study.enqueue_trial(_ranks(space, start))
    random, unknown, found, wasted = np.random.default_rng(seed), space.points(), dict[Setting, float](), 0
    while unknown:
        trial = study.ask()
        setting = _suggested(trial, space)
        if setting in unknown:
            unknown.remove(setting)
            found[setting] = measure(setting)
            wasted = 0
            yield _best(found)
        else:
            wasted += 1
        if setting in found:
            study.tell(trial, found[setting])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if wasted >= _MOST_WASTED:
            study.enqueue_trial(_ranks(space, unknown[random.integers(len(unknown))]))


def _ranks(space: Space, setting: Setting) -> dict[str, Any]:
    """Counts by rank, as the Gaussian process sees them; names as they are."""
    axes = {name: values for name, values in space.axes.items() if len(values) > 1}
    values = {name: getattr(setting, name) for name in axes}
    return {name: value if name in NOMINAL else axes[name].index(value) for name, value in values.items()}


def _suggested(trial: Any, space: Space) -> Setting:
    chosen: dict[str, Any] = {}
    for name, values in space.axes.items():
        if len(values) == 1:
            chosen[name] = values[0]
        elif name in NOMINAL:
            chosen[name] = trial.suggest_categorical(name, values)
        else:
            chosen[name] = values[trial.suggest_int(name, 0, len(values) - 1)]
    return Setting(**chosen)


def _best(found: dict[Setting, float]) -> list[Setting]:
    return sorted(found, key=lambda one: -found[one])[:FINALISTS]


METHODS: dict[str, Method] = {
    "Gaussian process": gaussian_process,
    "TPE": tpe,
    "TPE, multivariate": partial(tpe, multivariate=True),
    "random": random_search,
}


def hits_of(method: Method, space: Space, cores: int, seed: int, most: int) -> list[bool]:
    """After each run on one surface, whether the finalists hit."""
    random = np.random.default_rng(seed)
    truth = surface(random, cores)
    enough = WITHIN * max(map(truth, space.points()))

    def measure(setting: Setting) -> float:
        return noisy(truth(setting), NOISE, random)

    found = itertools.islice(method(space, start_of(space, cores), measure, seed), most)
    return [max(map(truth, finalists)) >= enough for finalists in found]


def hit_rates(hits: Sequence[Sequence[bool]], most: int) -> list[float]:
    """After each run, over all surfaces. A method that has ended keeps its finalists."""
    return [float(np.mean([one[min(runs, len(one)) - 1] for one in hits])) for runs in range(1, most + 1)]


def runs_for(rates: Sequence[float], share: float) -> str:
    """The fewest runs from which on the hit rate is at least `share`."""
    below = [runs for runs, rate in enumerate(rates, 1) if rate < share]
    fewest = max(below, default=0) + 1
    return str(fewest) if fewest <= len(rates) else f"more than {len(rates)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.search_methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seeds", type=int, default=60, metavar="N", help="surfaces of each space (default: %(default)s)")
    add("--spaces", nargs="+", choices=SPACES, default=list(SPACES), help="default: all")
    add("--runs", type=int, default=100, metavar="N", help="most of each method (default: %(default)s)")
    options = parser.parse_args()
    heads = ["space", "method", *(f"{share:.0%} hit" for share in SHARES), "hit rate at the end", "mean runs"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for space_name in options.spaces:
        cores, space = SPACES[space_name]
        most = min(options.runs, len(space.points()))
        for name, method in METHODS.items():
            hits = [hits_of(method, space, cores, seed, most) for seed in range(options.seeds)]
            rates = hit_rates(hits, most)
            cells = [f"{space_name} ({len(space.points())})", name, *(runs_for(rates, s) for s in SHARES)]
            print(
                f"| {' | '.join(cells)} | {rates[-1]:.0%} | {np.mean([len(one) for one in hits]):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
