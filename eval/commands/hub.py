"""`msinet-hub` as it is installed: with the evaluation at hand, for the mAP of an exported file."""

from msinet_timm.cli.hub import create_main

__all__ = ['main']


def _measure(model, dataset, data_config, transform) -> float:
    from msinet_eval.evaluation import evaluate  # only `export -ds` needs it

    return evaluate(model, dataset, data_config=data_config, transform=transform, device='cpu').ranking.mAP


main = create_main(_measure)
