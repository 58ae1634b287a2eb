"""What metrics accept: arrays, tensors and lists become tensors that fit each other, or one clear message."""

import warnings

import torch
from torch import Tensor

from msinet_timm.errors import InputError

__all__ = ['Relatives', 'Rules', 'as_tensor', 'check_features', 'check_labels', 'check_rules']

#: Labels of query and gallery by name ('cameras', 'clothes'): images that share one of them with a query, and its
#: identity, are not in its ranking.
Rules = dict[str, tuple[Tensor, Tensor]]


def as_tensor(values, name: str) -> Tensor:
    """Anything that torch can read, without gradient.

    Raises:
        InputError: torch cannot; `name` says what it was.
    """
    try:
        with warnings.catch_warnings():  # a file mapped into memory cannot be written, and never is
            warnings.filterwarnings('ignore', 'The given NumPy array is not writable')
            return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f'{name} must be an array or tensor of numbers ({e})') from e


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


def check_labels(labels, images: Tensor, name: str) -> Tensor:
    """Labels as an integer tensor on the device of `images`, which has a row for each label.

    Raises:
        InputError: another number, or not integers.
    """
    labels = as_tensor(labels, name)
    if labels.shape != images.shape[:1]:
        raise InputError(f'{name} must be one label for each of {len(images)} images, got {list(labels.shape)}')
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f'{name} must be integers, got {labels.dtype}')
    return labels.to(images.device)


def check_rules(query: Tensor, gallery: Tensor, **given: tuple) -> Rules:
    """The given labels (of query, of gallery) by name, without those that are not known.

    Raises:
        InputError: known for one of query and gallery only, or as `check_labels`.
    """
    rules = {}
    for name, (of_query, of_gallery) in given.items():
        if (of_query is None) != (of_gallery is None):
            raise InputError(f'{name} are known for only one of query and gallery: give both or none')
        if of_query is not None:
            of_query = check_labels(of_query, query, f'query_{name}')
            rules[name] = of_query, check_labels(of_gallery, gallery, f'gallery_{name}')
    return rules


class Relatives:
    """Gallery images of the queries' own identities, and which of them the rules take out.

    Args:
        query_ids: [Q] integers.
        gallery_ids: [G] integers.
        rules: as `check_rules` gives them.
    """

    def __init__(self, query_ids: Tensor, gallery_ids: Tensor, rules: Rules):
        self._order = gallery_ids.argsort(stable=True)
        ordered = gallery_ids[self._order]
        self._first = torch.searchsorted(ordered, query_ids)
        self._counts = torch.searchsorted(ordered, query_ids, right=True) - self._first
        self._rules = rules

    def of(self, queries: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Row (0 for the first of these queries), column, and whether it is removed, of each; [N], rows ascending."""
        counts = self._counts[queries]
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        within = torch.arange(len(rows), device=counts.device) - (counts.cumsum(0) - counts)[rows]
        columns = self._order[self._first[queries][rows] + within]
        removed = torch.zeros_like(rows, dtype=torch.bool)
        for of_query, of_gallery in self._rules.values():
            removed |= of_query[queries][rows] == of_gallery[columns]
        return rows, columns, removed
