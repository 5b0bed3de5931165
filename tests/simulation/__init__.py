"""Many nodes and notebooks in simulated time, decided by the product's own functions: placement, shares, plans, pools.

`python -m tests.simulation` runs the full size; `--nodes`, `--notebooks` and `--seconds` another one.
"""
