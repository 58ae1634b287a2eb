"""Nearest vectors in memory, by faiss: all compared in full, or first by one bit for each number."""

import numpy as np

from msinet_timm.errors import needs

__all__ = ['BITS_FROM', 'VectorIndex']

#: Vectors from which on bits are compared first, see docs/gallery.md.
BITS_FROM = 200_000
#: Vectors that are compared in full, for each that is asked for, and at least.
_REFINED, _LEAST = 20, 400
_STEP = 2**14  # vectors that are float32 at once
_TRAINED = 20_000  # vectors that their centre is taken from


class VectorIndex:
    """Vectors as float16, with numbers; and many of them also as bits.

    Bits are those of RaBitQ (Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound
    for Approximate Nearest Neighbor Search", SIGMOD 2024): the signs of rotated vectors, by which inner products are
    estimated. The best of them are compared in full.

    Args:
        size: D, the length of a vector.
        bits_from: number of vectors from which on they are also kept as bits.
    """

    def __init__(self, size: int, bits_from: int = BITS_FROM) -> None:
        with needs('gallery', 'a gallery'):
            import faiss
        self._faiss, self._size, self._bits_from = faiss, size, bits_from
        flat = faiss.IndexScalarQuantizer(size, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index, self._bits = faiss.IndexIDMap(flat), None
        self._rotation = faiss.RandomRotationMatrix(size, size)

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors [N, D] with numbers [N], which ascend and are higher than those before."""
        for start in range(0, len(ids), _STEP):
            part = np.ascontiguousarray(vectors[start : start + _STEP], dtype=np.float32)
            numbers = np.ascontiguousarray(ids[start : start + _STEP], dtype=np.int64)
            self._index.add_with_ids(part, numbers)
            if self._bits is not None:
                self._bits.add_with_ids(self._rotation.apply(part), numbers)

    def make_bits(self) -> None:
        """Keeps the vectors also as bits, where there are enough and it has not been done yet."""
        count = len(self)
        if self._bits is not None or count < self._bits_from:
            return
        faiss, ids = self._faiss, self._ids()
        self._rotation.init(0)
        self._bits = faiss.IndexIDMap(faiss.IndexRaBitQ(self._size, faiss.METRIC_INNER_PRODUCT))
        sample = np.linspace(0, count - 1, min(count, _TRAINED)).astype(np.int64)
        self._bits.train(self._rotation.apply(self._take(sample)))
        for start in range(0, count, _STEP):
            places = np.arange(start, min(count, start + _STEP))
            self._bits.add_with_ids(self._rotation.apply(self._take(places)), ids[places])

    def _ids(self) -> np.ndarray:
        """Numbers of all vectors, ascending; as long as nothing is added or removed."""
        return self._faiss.rev_swig_ptr(self._index.id_map.data(), len(self))

    def _take(self, places: np.ndarray) -> np.ndarray:
        """[N, D] float32 vectors."""
        return self._index.index.reconstruct_batch(places)

    def remove(self, ids: np.ndarray) -> None:
        """Forgets vectors."""
        if len(ids):
            for index in filter(None, (self._index, self._bits)):
                index.remove_ids(self._selector(ids))

    def search(
        self, vector: np.ndarray, k: int, ids: np.ndarray | None = None, exact: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and inner products of the k highest, highest first; fewer where there are no more.

        Args:
            vector: [D] float32.
            k: how many.
            ids: numbers of those that are looked at; None for all.
            exact: compare all in full, also where there are bits.
        """
        count = len(self) if ids is None else len(ids)
        k = min(k, count)
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parameters = self._faiss.SearchParameters(sel=self._selector(ids)) if ids is not None else None
        query = np.ascontiguousarray(vector[None], dtype=np.float32)
        if exact or self._bits is None:
            products, found = self._index.search(query, k, params=parameters)
            return found[0], products[0]
        wanted = min(count, max(_LEAST, _REFINED * k))
        found = self._bits.search(self._rotation.apply(query), wanted, params=parameters)[1][0]
        found = np.sort(found[found >= 0])  # of equal ones, that with the lower number comes first
        products = self._take(np.searchsorted(self._ids(), found)) @ query[0]
        best = np.argsort(-products, kind='stable')[:k]
        return found[best], products[best]

    def _selector(self, ids: np.ndarray):
        """What holds for these numbers; it keeps the memory that it needs."""
        marks = np.zeros(int(np.max(ids)) + 1 if len(ids) else 1, bool)
        marks[ids] = True
        return self._faiss.IDSelectorBitmap(np.packbits(marks, bitorder='little'))
