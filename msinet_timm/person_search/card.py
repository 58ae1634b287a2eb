"""Model cards of networks of person search."""

from collections.abc import Mapping, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

__all__ = ['USE', 'write_search_card']

_TASK = 'person-search'
#: Lines of use, and where the folder stands in them.
USE = 'THIS_FOLDER'
_TEMPLATE = """---
{card_data}
---
# {title}

{about}

{facts}

## Results

{results}
{remarks}
## Use

```python
from msinet_timm.person_search import PersonSearch

search = PersonSearch('{use}')
boxes, scores, embeddings = search('frame.jpg')  # of everybody: [N, 4], [N] and [N, D] of length 1
asked = search.embed('other.jpg', [[412, 80, 470, 233]])  # left, top, right and bottom of who is asked for
similar = embeddings @ asked[0]  # cosines [N]
```

Input: whole RGB images of any size, each resized to a shorter side of {min_size} pixels, or a longer one of {max_size}.

## Limits

It finds and tells apart people who look like those it was trained on. Other cameras, places, seasons and angles lower
its metrics: measure it on your own images before you rely on it. It goes by appearance, clothes above all, and is no
proof of identity. Its metrics come from the data sets named here, with their choice of people and places; how it does
for groups of people that are rare there is not known. Whoever follows people with it needs a legal ground and their
trust.
{settings}"""


def write_search_card(
    title: str,
    about: str,
    config: Mapping[str, object],
    results: Mapping[str, Mapping[str, float]],
    training_data: Sequence[str] = (),
    facts: Sequence[str] = (),
    remarks: Sequence[str] = (),
    settings: str = '',
) -> str:
    """The README of a folder.

    Args:
        title: name of the network.
        about: one sentence.
        config: of the network, for the size of frames.
        results: by data set, metrics by name, each 0 to 1; their first one leads the metadata.
        training_data: names of data sets.
        facts: listed under the title.
        remarks: what a reader of the metrics must know.
        settings: of the training, as YAML.
    """
    data = ModelCardData(
        library_name='msinet-timm',
        pipeline_tag='object-detection',
        tags=['object-detection', _TASK, 'object-re-identification', *training_data],
        training_data=list(training_data),
        model_name=title if results else None,
        eval_results=[
            EvalResult(
                task_type=_TASK, dataset_type=dataset, dataset_name=dataset, dataset_split='test', metric_type=name,
                metric_value=round(value, 4),
            )
            for dataset, metrics in results.items()
            for name, value in metrics.items()
        ] or None,
    )  # fmt: skip
    names = list(next(iter(results.values()), {}))
    lines = [
        f'| data set | {" | ".join(f"{name} %" for name in names)} |',
        '| --- ' * (1 + len(names)) + '|',
        *(
            f'| {dataset} | {" | ".join(f"{100 * metrics[name]:.1f}" for name in names)} |'
            for dataset, metrics in results.items()
        ),
    ]
    text = _TEMPLATE.format(
        card_data=data,
        title=title,
        about=about,
        facts='\n'.join(f'- {fact}' for fact in facts),
        results='\n'.join(lines) if results else 'Not measured.',
        remarks=''.join(f'\n- {remark}' for remark in remarks) + '\n' * bool(remarks),
        use=USE,
        min_size=config['min_size'],
        max_size=config['max_size'],
        settings=f'\n## Settings\n\n```yaml\n{settings.rstrip()}\n```\n' if settings else '',
    )
    return f'{str(ModelCard(text)).rstrip()}\n'
