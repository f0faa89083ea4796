"""Measures the service with the user's own photos, and finds its best settings.

In a sweep, `load/photos` reads the photos, `sweep/search` proposes a setting, `sweep/target` serves it,
`load/perf_analyzer` loads the server while `observe/observer` samples it, and a `records/measurement` is
written to the run folder, which `answer` and `report` read. `stages` generates its load with
`load/closed_loop`, and uses the same observer.
"""
