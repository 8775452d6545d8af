"""What deduplication keeps of every document while it reads a corpus once: hashes, signatures, shingles and keys, in files.

In memory a document costs some tens of bytes, whatever its length; its text is never needed again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_pipeline.curation.dedup_shingles import Numbers, Shingles
from llm_pipeline.curation.signatures import PERMUTATIONS, SIGNATURE_TYPE, Matrix, Shingled, shingle, signature_matrix, signatures
from llm_pipeline.curation.word_hashes import Hashes, groups, mix, word_hashes
from llm_pipeline.errors import ContractError

Bits = NDArray[np.uint64]
Scores = NDArray[np.float64]
_ESTIMATED = 1 << 16
"""Pairs of sketches that are compared at a time."""
_BIT = np.uint32(12)
"""The bit of every number of a signature that is remembered: high enough to depend on the whole shingle, low enough to be random."""
_DOUBT = 4
"""Standard deviations below the threshold from which on an estimate is believed (wrong about 0.00003 of the pairs just there)."""
LICENCES = (
    ("cc0", "public-domain", "pddl", "unlicense"),
    ("mit", "apache", "bsd", "isc", "psf", "python", "odc-by", "cc-by-1", "cc-by-2", "cc-by-3", "cc-by-4"),
    ("cc-by-sa", "odbl", "mpl", "lgpl", "gfdl"),
    ("cc-by", "gpl", "agpl"),
)
"""Licences by what they ask for, the freest first, known by how they begin; then others, then none."""


@dataclass(frozen=True)
class Bands:
    """A signature cut into `number` bands of `rows` numbers: documents that share a whole band are compared."""

    number: int
    rows: int

    @classmethod
    def of(cls, threshold: float) -> Bands:
        """The longest bands that still find a pair exactly at the threshold with probability 0.989 (25 x 5 for 0.7)."""
        chances = [(rows, 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows)) for rows in range(1, PERMUTATIONS + 1)]
        rows = max(rows for rows, chance in chances if chance >= 0.989)
        return cls(PERMUTATIONS // rows, rows)

    def keys(self, matrix: Matrix) -> Hashes:
        """The 64-bit hash of every band, of shape (bands, documents)."""
        wide = matrix[:, : self.number * self.rows].astype(np.uint64).reshape(-1, self.number, self.rows)
        total = np.zeros(wide.shape[:2], dtype=np.uint64)
        for row in range(self.rows):
            total = mix(total ^ wide[:, :, row]) + np.uint64(row + 1)
        return np.ascontiguousarray(total.T)


class Sketches:
    """Files in a new folder under `scratch`, which goes when the block ends; rows are numbered in the order of `add`."""

    def __init__(self, scratch: Path, threshold: float) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.threshold, self.bands = threshold, Bands.of(threshold)
        self.folder = Path(tempfile.mkdtemp(prefix="dedup-", dir=scratch))
        names = ["hashes", "bits", *(f"band{band}" for band in range(self.bands.number))]
        self._files = {name: open(self.folder / name, "w+b") for name in names}  # noqa: SIM115
        self.shingles = Shingles(self.folder)
        self._rows: Any = None
        self._bits: Bits = np.empty((0, 2), dtype=np.uint64)
        self.hashes: Hashes = np.empty(0, dtype=np.uint64)
        """Of every row's text."""

    def __enter__(self) -> Sketches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        self.shingles.close()
        if self._rows is not None:
            self._rows.close()
        shutil.rmtree(self.folder)

    def add(self, table: pa.Table) -> None:
        """Columns id and text; day, licence and what `signatures.sign` made of the same rows when they are there."""
        columns = {column.name: column.type for column in table.schema}
        signed = signature_matrix(table) if columns.get("signature") == SIGNATURE_TYPE and "text_hash" in columns else None
        known = np.asarray(table["text_hash"]) if signed is not None else None
        done = 0
        for group in groups(table["text"]):
            part = slice(done, done + len(group))
            shingled = shingle(word_hashes(group))
            if known is not None and not np.array_equal(known[part], shingled.text_hashes):
                raise ContractError("signatures do not belong to these texts: materialise `signatures` of the same days again")
            self._write(shingled, signatures(shingled) if signed is None else signed[part])
            done = part.stop
        rows = _keys(table)
        if self._rows is None:
            self._rows = pa.ipc.new_stream(str(self.folder / "rows"), rows.schema)
        self._rows.write_table(rows)

    def _write(self, shingled: Shingled, matrix: Matrix) -> None:
        shingled.text_hashes.tofile(self._files["hashes"])
        self.shingles.add(shingled.hashes, shingled.bounds)
        np.packbits((matrix >> _BIT & np.uint32(1)).astype(np.uint8), axis=1).tofile(self._files["bits"])
        for band, keys in enumerate(self.bands.keys(matrix)):
            keys.tofile(self._files[f"band{band}"])

    def finish(self) -> None:
        """No more rows will come: what is asked from here on is known."""
        for file in self._files.values():
            file.flush()
        if self._rows is not None:
            self._rows.close()
        self.shingles.finish()
        self._bits = np.fromfile(self.folder / "bits", dtype=np.uint64).reshape(-1, PERMUTATIONS // 64)
        self.hashes = np.fromfile(self.folder / "hashes", dtype=np.uint64)

    def tables(self) -> Iterator[pa.Table]:
        """Columns id, day, licence (a rank) and length of all rows, in the tables that were added."""
        if self._rows is not None:
            with pa.OSFile(str(self.folder / "rows"), "rb") as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])

    def keys(self, band: int) -> Hashes:
        return np.fromfile(self.folder / f"band{band}", dtype=np.uint64)

    def likely(self, a: Numbers, b: Numbers) -> NDArray[np.bool_]:
        """Whether rows a[i] and b[i] may reach the threshold, as far as one bit of every number tells.

        Of the bits of documents with similarity s a share of (1 + s) / 2 is equal (b-bit minwise hashing, Li and König 2010).
        """
        share = (1 + self.threshold) / 2
        floor = PERMUTATIONS * share - _DOUBT * (PERMUTATIONS * share * (1 - share)) ** 0.5
        found = np.empty(len(a), dtype=bool)
        for start in range(0, len(a), _ESTIMATED):
            part = slice(start, start + _ESTIMATED)
            found[part] = PERMUTATIONS - np.bitwise_count(self._bits[a[part]] ^ self._bits[b[part]]).sum(axis=1, dtype=np.int64) >= floor
        return found

    def similar(self, a: Numbers, b: Numbers) -> Scores:
        """The Jaccard similarity of rows a[i] and b[i], of which the shingles were arranged; 0 where it is likely below the threshold."""
        scores, likely = np.zeros(len(a)), self.likely(a, b)
        scores[likely] = [self.shingles.jaccard(x, y) for x, y in zip(a[likely].tolist(), b[likely].tolist(), strict=True)]
        return scores


def _keys(table: pa.Table) -> pa.Table:
    """What the rule of keeping needs to know of every row."""
    day, licence = _plain(table, "day"), _plain(table, "licence").to_pylist()
    ranks: dict[str | None, int] = {name: licence_rank(name) for name in set(licence)}
    rank = pa.array([ranks[name] for name in licence], pa.int8())
    length = pc.fill_null(pc.utf8_length(table["text"]), 0).cast(pa.int64())
    ids = table["id"].cast(pa.string())
    return pa.table({"id": ids, "day": day, "licence": rank, "length": length}).combine_chunks()


def _plain(table: pa.Table, name: str) -> Any:
    """The column as strings; nulls where there is none of single values."""
    column: Any = table[name] if name in table.column_names else None
    return pa.nulls(table.num_rows, pa.string()) if column is None or pa.types.is_nested(column.type) else column.cast(pa.string())


def licence_rank(name: str | None) -> int:
    """0 for the freest; see LICENCES."""
    if not name or not name.strip():
        return len(LICENCES) + 1
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    return next((rank for rank, starts in enumerate(LICENCES) if plain.startswith(starts)), len(LICENCES))
