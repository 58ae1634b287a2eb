"""Nearest vectors in memory, by faiss: all compared, or those of the nearest cells."""

import math
from collections.abc import Iterable

import numpy as np

from msinet_timm.errors import needs

__all__ = ['VectorIndex']

#: Vectors from which on cells pay, see docs/gallery.md.
CELLS_FROM = 500_000
#: Cells that a search looks into, of `sqrt(vectors)`.
PROBED = 32
#: Vectors that each cell is learned from, and rounds.
_TRAINED, _ROUNDS = 40, 8
_STEP = 2**14  # vectors that are float32 at once


class VectorIndex:
    """Vectors as float16, with numbers.

    Args:
        size: of a vector.
        cells_from: number of vectors from which on they are put into cells (an inverted file).
    """

    def __init__(self, size: int, cells_from: int = CELLS_FROM) -> None:
        with needs('gallery', 'a gallery'):
            import faiss
        self._faiss, self._size, self._cells_from = faiss, size, cells_from
        flat = faiss.IndexScalarQuantizer(size, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.IndexIDMap(flat)
        self._cells = 0

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors [N, D] with numbers [N]."""
        for start in range(0, len(ids), _STEP):
            part = np.ascontiguousarray(vectors[start : start + _STEP], dtype=np.float32)
            self._index.add_with_ids(part, np.ascontiguousarray(ids[start : start + _STEP], dtype=np.int64))

    def make_cells(self) -> None:
        """Puts the vectors into cells, where there are enough and it has not been done yet."""
        if self._cells or len(self) < self._cells_from:
            return
        faiss, flat = self._faiss, self._index.index
        count = len(self)
        cells = max(1, round(math.sqrt(count)))
        sample = np.linspace(0, count - 1, min(count, _TRAINED * cells)).astype(np.int64)
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(self._size), self._size, cells, faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT, False,
        )  # fmt: skip
        index.cp.niter, index.cp.spherical = _ROUNDS, True
        index.train(flat.reconstruct_batch(sample))
        ids = faiss.vector_to_array(self._index.id_map)
        for start in range(0, count, _STEP):
            part = np.arange(start, min(count, start + _STEP))
            index.add_with_ids(flat.reconstruct_batch(part), ids[part])
        self._index, self._cells = index, cells

    def remove(self, ids: np.ndarray) -> None:
        """Forgets vectors."""
        if len(ids):
            self._index.remove_ids(self._selector(ids)[0])

    def search(
        self, vector: np.ndarray, k: int, ids: Iterable[int] | None = None, exact: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and inner products of the k highest, highest first; fewer where there are no more.

        Args:
            vector: [D] float32.
            k: how many.
            ids: numbers of those that are looked at; None for all.
            exact: look at all of these; None to look at all where there are no cells, or where those of `ids` are few.
        """
        count = len(self) if ids is None else len(ids)
        k = min(k, count)
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        selector, bits = self._selector(ids) if ids is not None else (None, None)
        faiss, settings = self._faiss, {'sel': selector} if selector else {}
        if self._cells:
            whole = exact or (exact is None and count < self._cells_from)
            # a search that has to bring more looks farther
            probed = self._cells if whole else min(self._cells, max(PROBED, math.ceil(PROBED * k / 200)))
            parameters = faiss.SearchParametersIVF(nprobe=probed, **settings)
        else:
            parameters = faiss.SearchParameters(**settings)
        query = np.ascontiguousarray(vector[None], dtype=np.float32)
        products, found = self._index.search(query, k, params=parameters)
        del bits  # which faiss has looked at
        there = found[0] >= 0
        return found[0][there], products[0][there]

    def _selector(self, ids: np.ndarray):
        """What holds for these numbers, and the memory that it needs."""
        marks = np.zeros(int(np.max(ids)) + 1 if len(ids) else 1, bool)
        marks[ids] = True
        bits = np.packbits(marks, bitorder='little')
        return self._faiss.IDSelectorBitmap(bits), bits
