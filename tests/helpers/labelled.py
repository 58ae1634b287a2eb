"""Labels for rankings, from arrays by name; and names from numbers."""

from msinet_eval.metrics.checks import Labels

_KINDS = {'ids': 'identities', 'cameras': 'cameras', 'clothes': 'clothes'}


def labels_of(case):
    """Labels of query and gallery: what a case has of `query_ids`, `gallery_ids`, `query_cameras`, ..."""
    sides = ('query', 'gallery')
    return [Labels(**{field: case.get(f'{side}_{kind}') for kind, field in _KINDS.items()}) for side in sides]


def labelled(case):
    """A case of features and such arrays as arguments of `evaluate_ranking`."""
    others = {name: value for name, value in case.items() if name.rpartition('_')[2] not in _KINDS}
    return others | dict(zip(('query_labels', 'gallery_labels'), labels_of(case), strict=True))


def named(numbers):
    """Names, as `Features` hold them."""
    return tuple(str(int(number)) for number in numbers)
