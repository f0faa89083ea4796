"""Numpy and Parquet files in the layout of clip-retrieval, for its index builder and for plain numpy.

FOLDER/img_emb/img_emb_0.npy            float32 [N, D]
FOLDER/metadata/metadata_0.parquet      row i belongs to vector i: image_path, and the dataset's columns

Both are written whole in every run, and replace the earlier ones when they are complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_client.files import replacing
from clip_search.dataset import COLUMNS
from clip_search.errors import LoadError
from clip_search.loaders.base import Records, check_stored_model
from clip_search.vectors import Vectors

_MODEL = "clip_triton.json"
_VECTORS, _ROWS = "img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"


class NpyLoader:
    """The files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / ".incoming"
        self._writer: Any = None
        self._vectors: Any = None
        self._finished = False

    def open(self, model: Mapping[str, str], dimension: int, rows: int) -> None:
        description = self._folder / _MODEL
        with self._translated():
            if description.exists():
                check_stored_model(str(self._folder), _stored_model(description), model, "another folder")
            elif self._folder.is_dir() and any(self._folder.iterdir()):
                raise LoadError(
                    f"{self._folder} is not empty, and clip-search did not write it. Choose another folder"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(description) as temporary:  # first: what has none is not a loader's
                temporary.write_text(json.dumps(dict(model), indent=2), encoding="utf-8")
            shutil.rmtree(self._incoming, ignore_errors=True)
            for name in (_VECTORS, _ROWS):
                (self._folder / name).parent.mkdir(exist_ok=True)
                (self._incoming / name).parent.mkdir(parents=True)
            # Not a memory map: on a full disk, writing to one ends the process.
            self._vectors = (self._incoming / _VECTORS).open("wb")
            write_header: Any = np.lib.format.write_array_header_1_0  # without types in numpy 1
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
            write_header(self._vectors, header)
            names = ("id", "state", "image_path")
            schema = pa.schema([*((name, pa.string()) for name in names), *COLUMNS.items()])
            self._writer = pq.ParquetWriter(self._incoming / _ROWS, schema)

    def stored(self) -> dict[str, str]:
        """Nothing before finish(): every row is written again."""
        if not self._finished:
            return {}
        found = pq.read_table(self._folder / _ROWS, columns=["id", "state"])
        return dict(zip(found["id"].to_pylist(), found["state"].to_pylist(), strict=True))

    def upsert(self, records: Records) -> None:
        columns: dict[str, Any] = {"id": list(records.ids), "state": list(records.states)}
        columns["image_path"] = [
            f"{row.source}/{row.name}" if row.source else row.name for row in records.rows
        ]
        columns |= {name: records.column(name) for name in COLUMNS}
        with self._translated():
            self._writer.write_table(pa.table(columns, schema=self._writer.schema))
            self._vectors.write(np.ascontiguousarray(records.vectors, "<f4").data)

    def delete(self, ids: Sequence[str]) -> None:
        """Never called: stored() is empty before finish()."""

    def finish(self) -> None:
        with self._translated():
            self._writer.close()
            self._vectors.close()
            for name in (_VECTORS, _ROWS):
                os.replace(self._incoming / name, self._folder / name)
            shutil.rmtree(self._incoming)
        self._finished = True

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        places = {identifier: number for number, identifier in enumerate(self.stored())}
        vectors = np.load(self._folder / _VECTORS, mmap_mode="r")
        return {
            identifier: np.array(vectors[places[identifier]]) for identifier in ids if identifier in places
        }

    def close(self) -> None:
        if not self._finished:
            for file in filter(None, (self._writer, self._vectors)):
                with suppress(OSError):  # a full disk; the files are removed anyway
                    file.close()
            shutil.rmtree(self._incoming, ignore_errors=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LoadError(f"cannot write to {self._folder}: {error.strerror or error}") from error


def _stored_model(description: Path) -> dict[str, str] | None:
    """None if the file is not a loader's."""
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
