"""Pixels and open_clip's embeddings of them, by which an encoder proves itself where it serves.

The machine that exports seldom has the instructions of the one that serves: BF16 may not exist there,
and int8 products saturate on one CPU and not on the next. So the export leaves this file beside the
graphs, and every encoder of less than fp32 embeds it before it takes a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from clip_serving import defaults
from clip_serving.errors import ConfigurationError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Embed = Callable[[Pixels, npt.NDArray[np.bool_]], Floats]


@dataclass(frozen=True)
class Proof:
    """uint8 `pixels` [N,H,W,3] and their float32 `embeddings` [N,D], L2-normalised."""

    pixels: Pixels
    embeddings: Floats

    def first(self, n: int) -> Proof:
        return Proof(self.pixels[:n], self.embeddings[:n])

    def save(self, version: Path) -> None:
        np.savez_compressed(
            version / defaults.PROOF_FILE, pixels=self.pixels, embeddings=self.embeddings.astype("<f4")
        )

    @classmethod
    def load(cls, version: Path) -> Proof:
        """Raises ConfigurationError where the encoder's version directory holds none."""
        path = version / defaults.PROOF_FILE
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return cls(arrays["pixels"], arrays["embeddings"])
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ConfigurationError(
                f"{path} is missing or damaged ({error}), and less than fp32 is served only after it was "
                "proved by it: export the model again"
            ) from error

    def least_cosine(self, embed: Embed) -> float:
        """Of `embed`'s rows to these, all in one batch; -1 where a row is no vector."""
        return least_cosine(embed(self.pixels, np.ones((len(self.pixels), 1), np.bool_)), self.embeddings)


def least_cosine(rows: Floats, wanted: Floats) -> float:
    """The smallest over rows; -1 for other shapes and for rows with NaN."""
    if rows.shape != wanted.shape:
        return -1.0
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (rows * wanted).sum(axis=1) / np.maximum(norms, 1e-12)
    return float(np.nan_to_num(cosines, nan=-1.0).min())
