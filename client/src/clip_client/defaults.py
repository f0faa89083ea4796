"""The defaults of this distribution."""

from __future__ import annotations

from typing import Literal

Tier = Literal["decode", "encode"]
"""What a server serves if not everything; clip_serving.defaults.Tier."""
MODEL = "clip_image"
TEXT_MODEL = "clip_text"
URL = "127.0.0.1:8001"

DECODE = "server"
CONCURRENCY = 16
"""Requests in flight. Triton batches across them."""
PIXEL_REQUESTS = 2
"""Most requests with pixels in flight to one encoder, or as many as it has instances, if these are more: see
requests/packing.py."""
IMAGES_PER_REQUEST = 8
"""Triton never splits a request: one preprocess instance decodes all of it."""
BYTES_PER_REQUEST = 64 * 1024 * 1024
MAX_PHOTO_BYTES = 2**31 - 2**20
"""A gRPC message is at most 2 GiB; a server's own limit is far lower."""
BYTES_IN_FLIGHT = 256 * 1024 * 1024
UNPACKED_BYTES = 64 * 1024 * 1024
"""The largest photo in an object stored compressed, if the server does not say what it accepts."""
LOAD_TIMEOUT_S = 120.0
"""For one object with all retries: 32 MB at 2 Mbit/s."""
STALL_TIMEOUT_S = 30.0
"""Without any data."""
REQUEST_END_S = 5.0
"""How long an interrupted run waits for its requests to end, after it has cancelled them."""

MALLOC_MMAP_BYTES = 32 * 1024 * 1024
"""Only larger blocks are fetched from the system each time. This is glibc's maximum."""
MALLOC_KEPT_BYTES = 128 * 1024 * 1024
"""Free memory to keep at the end of an arena."""

DEADLINE_S = 60.0
"""For one request with all its retries."""
RETRY_INITIAL_S = 0.1
RETRY_MAXIMUM_S = 5.0
MAX_ISOLATED_CRASHES = 2
"""Crashes of the server under one isolated photo before that photo is rejected."""
SHARED_REJECTIONS = 2
"""Rejections of a request in batches that it may share, before it is sent as a batch of its own."""
PROBE_S = 5.0
"""Time for a server that did not answer a photo in time to answer an empty one; at most half a deadline."""
WAIT_FOR_SERVER_S = 10.0
PATIENCE_S = 5.0
"""For an answer, before a request is sent to another server. More if all servers answer slowly."""
SLOW_S = 1.0
SLOW_FACTOR = 4.0
"""A server is slow whose answers take this many times as long as the fastest server's, and `SLOW_S`."""

MIN_REFERENCE_COSINE = 0.999
NORM_TOLERANCE = 1e-2

SHARD_ROWS = 1000
SHARD_SECONDS = 5.0
ROW_GROUP_ROWS = 10_000
"""Approximate, in the finished file: 20 MB of vectors of 512 numbers."""
