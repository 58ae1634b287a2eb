"""`python -m msinet_eval` is `msinet-eval`, for `torchrun -m msinet_eval`."""

from .cli import main

raise SystemExit(main())
