"""Pixels and open_clip's embeddings of them, to check an encoder on the machine that serves it.

The machine that exports often lacks the instructions of the one that serves: it may not have BF16, and int8
products saturate on some CPUs only. So the export stores this file beside the graphs, and every encoder below
fp32 must embed it correctly before it accepts requests.
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
    """uint8 `pixels` [N,H,W,3] and their float32 `embeddings` [N,D], L2-normalized."""

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
        """Raises ConfigurationError if the version directory has no valid proof.npz."""
        path = version / defaults.PROOF_FILE
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return cls(arrays["pixels"], arrays["embeddings"])
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ConfigurationError(
                f"{path} is missing or damaged ({error}); precisions below fp32 are checked with it before "
                "they are served. Export the model again"
            ) from error

    def least_cosine(self, embed: Embed) -> float:
        """The least cosine of `embed`'s rows to these, in one batch; -1 if a row has NaN."""
        return least_cosine(embed(self.pixels, np.ones((len(self.pixels), 1), np.bool_)), self.embeddings)


def least_cosine(rows: Floats, wanted: Floats) -> float:
    """The least cosine over rows; -1 for other shapes and for rows with NaN."""
    if rows.shape != wanted.shape:
        return -1.0
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (rows * wanted).sum(axis=1) / np.maximum(norms, 1e-12)
    return float(np.nan_to_num(cosines, nan=-1.0).min())
