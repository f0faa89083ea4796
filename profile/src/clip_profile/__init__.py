"""Measures the service under the user's own photos, and finds its best settings.

The files in the order of a sweep: `photos` are read, `search` proposes a `setting`, `target` serves it
from a `variant` of the repository, `load` runs perf_analyzer whose files `perf_files` reads while
`watch` and `server_stats` look on, a `measurement` comes out and goes into the `run_folder`. From
there `recommend`, `compare` and `report` start, all with the same `statistics`.
"""
