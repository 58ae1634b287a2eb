import msinet_timm  # noqa: F401  registers the models with timm
