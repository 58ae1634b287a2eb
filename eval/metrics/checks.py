"""What metrics accept: arrays, tensors and lists become tensors that fit each other, or one clear message."""

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from msinet_timm.datasets.records import sort_names
from msinet_timm.errors import InputError

__all__ = ['Labels', 'Relatives', 'as_tensor', 'check_features', 'number_labels', 'to_numbers']


def as_tensor(values, name: str, expected: str = 'an array or tensor of numbers') -> Tensor:
    """Anything that torch can read, without gradient.

    Raises:
        InputError: torch cannot; `name` says what it was, `expected` what it must be.
    """
    try:
        with warnings.catch_warnings():  # a file mapped into memory cannot be written, and never is
            warnings.filterwarnings('ignore', 'The given NumPy array is not writable')
            return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f'{name} must be {expected} ({e})') from e


def check_features(query, gallery) -> tuple[Tensor, Tensor]:
    """Features of queries [Q, D] and gallery [G, D] as float32 on the query's device.

    Raises:
        InputError: other shapes, or nothing in them.
    """
    query, gallery = as_tensor(query, 'query features'), as_tensor(gallery, 'gallery features')
    for features, name in ((query, 'query'), (gallery, 'gallery')):
        if features.ndim != 2 or 0 in features.shape:
            raise InputError(f'{name} features must be [images, dimensions], not empty; got {list(features.shape)}')
    if query.shape[1] != gallery.shape[1]:
        raise InputError(f'query features have {query.shape[1]} dimensions, gallery features {gallery.shape[1]}')
    return query.float(), gallery.to(query.device).float()


class Labels(NamedTuple):
    """Who is in N images, and what else a ranking's rules go by: names or integers, in a list, an array or a tensor.

    Attributes:
        identities: [N] who is asked for.
        cameras: [N] where each image was taken: gallery images of a query's identity and camera are left out of its
            ranking. None to leave out none.
        clothes: [N] what is worn: the same for images of a query's identity and clothes.
    """

    identities: Any
    cameras: Any = None
    clothes: Any = None


def to_numbers(kind: str, **sides) -> list[Tensor]:
    """Labels as [N] int64, which are equal where the labels are.

    Integers stay as they are. Names are numbered from 0 in their order, over all sides together: this is the one place
    where names become numbers, so that those of query and gallery mean the same.

    Args:
        kind: what the labels tell, for messages.
        sides: labels of `query`, of `gallery`, or of whatever else is compared.

    Raises:
        InputError: labels that are neither names nor integers, or not the same on all sides.
    """
    names = {side: _names(labels) for side, labels in sides.items()}
    named = [side for side in sides if names[side] is not None]
    if not named:
        return [_integers(labels, f'{side} {kind}') for side, labels in sides.items()]
    if len(named) < len(sides):
        raise InputError(f'{kind} of the {named[0]} are names, but others are not: give names, or integers, for all')
    numbers = {name: n for n, name in enumerate(sort_names(chain.from_iterable(names.values())))}
    return [torch.from_numpy(np.fromiter(map(numbers.get, found), np.int64, len(found))) for found in names.values()]


def number_labels(query: Labels, gallery: Labels, device: torch.device | None = None) -> tuple[Labels, Labels]:
    """The same labels as tensors on a device (None: the CPU), see `to_numbers`.

    Raises:
        InputError: known for one of query and gallery only, or as `to_numbers`.
    """
    for labels in (query, gallery):
        if not isinstance(labels, Labels):
            raise InputError(f'give the labels of query and gallery as Labels(identities, ...), not {type(labels)}')
    pairs = []
    for kind, *sides in zip(Labels._fields, query, gallery, strict=True):
        if (sides[0] is None) != (sides[1] is None):
            raise InputError(f'{kind} are known for only one of query and gallery: give both or none')
        known = sides[0] is not None
        pairs.append([n.to(device) for n in to_numbers(kind, query=sides[0], gallery=sides[1])] if known else sides)
    return tuple(Labels(*side) for side in zip(*pairs, strict=True))


def _names(labels) -> Sequence[str] | None:
    """Labels that are names; None for all others."""
    if not isinstance(labels, list | tuple | Tensor):
        array = np.asarray(labels)
        labels = array.tolist() if array.dtype.kind in 'UO' else ()
    is_name = isinstance(labels, list | tuple) and len(labels) > 0 and all(isinstance(name, str) for name in labels)
    return labels if is_name else None


def _integers(labels, name: str) -> Tensor:
    labels = as_tensor(labels, name, 'names or integers')
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f'{name} must be names or integers, got {labels.dtype}')
    return labels.long()


class Relatives:
    """Gallery images of the queries' own identities, and which of them the rules take out.

    Attributes:
        rules: what an image has in common with a query, beside its identity, when a rule takes it out: `cameras`,
            `clothes`, both or none.

    Args:
        query: of Q images.
        gallery: of G images.
        shape: Q, G.
        device: where to look them up.

    Raises:
        InputError: another number of labels, or as `number_labels`.
    """

    def __init__(self, query: Labels, gallery: Labels, shape: tuple[int, int], device: torch.device):
        query, gallery = number_labels(query, gallery, device)
        for side, labels, count in zip(('query', 'gallery'), (query, gallery), shape, strict=True):
            for kind, numbers in labels._asdict().items():
                if numbers is not None and numbers.shape != (count,):
                    got = list(numbers.shape)
                    raise InputError(f'{side} {kind} must be one for each of {count} images, got {got}')
        (query_ids, *of_query), (gallery_ids, *of_gallery) = query, gallery
        self._order = gallery_ids.argsort(stable=True)
        ordered = gallery_ids[self._order]
        self._first = torch.searchsorted(ordered, query_ids)
        self._counts = torch.searchsorted(ordered, query_ids, right=True) - self._first
        rules = zip(Labels._fields[1:], of_query, of_gallery, strict=True)
        self._labels = {rule: sides for rule, *sides in rules if sides[0] is not None}
        self.rules = tuple(self._labels)

    def of(self, queries: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Row (0 for the first of these queries), column, and whether it is removed, of each; [N], rows ascending."""
        counts = self._counts[queries]
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        within = torch.arange(len(rows), device=counts.device) - (counts.cumsum(0) - counts)[rows]
        columns = self._order[self._first[queries][rows] + within]
        removed = torch.zeros_like(rows, dtype=torch.bool)
        for of_query, of_gallery in self._labels.values():
            removed |= of_query[queries][rows] == of_gallery[columns]
        return rows, columns, removed
