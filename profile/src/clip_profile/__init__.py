"""Measures the service under the user's own photos, and finds its best settings.

A sweep reads `load/photos`, `sweep/search` proposes a setting, `sweep/target` serves it, `load/perf_analyzer`
presses the server while `observe/observer` watches, and a `records/measurement` goes into the run folder.
From there `answer` and `report` start. `stages` presses with `load/closed_loop` and is observed alike.
"""
