"""Speed of MSINet in all its forms, beside other models: `python -m msinet_timm.benchmark`."""
