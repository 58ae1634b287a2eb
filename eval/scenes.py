"""Person search on scenes: everybody is found and embedded, and who is asked for is looked for among them."""

import numpy as np

from msinet_timm.commands import progress
from msinet_timm.datasets.scenes import SceneSet
from msinet_timm.errors import InputError
from msinet_timm.person_search import Found, PersonSearch

from .metrics.person_search import PersonSearchResult, evaluate_person_search

__all__ = ['evaluate_scenes', 'find_people']


def find_people(search: PersonSearch, scenes: SceneSet) -> tuple[dict[str, Found], np.ndarray]:
    """Runs a network on the test scenes.

    Returns:
        Who is found, by path of the scene; and embeddings [Q, D] of who is asked for.

    Raises:
        InputError: a scene cannot be read, or a query's box shows nothing of it.
    """
    found = {scene.path: search(scene.path) for scene in progress(scenes.test, desc='scenes', unit='img', leave=False)}
    asked = np.empty((len(scenes.queries), search.size), np.float32)
    by_scene: dict[str, list[int]] = {}
    for number, query in enumerate(scenes.queries):
        by_scene.setdefault(query.scene.path, []).append(number)
    for path, numbers in by_scene.items():
        try:
            asked[numbers] = search.embed(path, [scenes.queries[number].box for number in numbers])
        except InputError as e:
            raise InputError(f'{path}: {e}') from e
    return found, asked


def evaluate_scenes(search: PersonSearch, scenes: SceneSet) -> PersonSearchResult:
    """Measures a network on a set of scenes, see `msinet_eval.metrics.person_search.evaluate_person_search`.

    Args:
        search: the network; boxes count from its `score` on.
        scenes: with test scenes and queries.

    Raises:
        InputError: there are no queries, or a scene cannot be read.
    """
    if not scenes.queries:
        raise InputError(f"data set '{scenes.name}' in {scenes.root} has no queries: there is nobody to look for")
    return evaluate_person_search(scenes, *find_people(search, scenes), min_score=search.score)
