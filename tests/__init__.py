"""Tests of zennit_neon; docs/contributing.md says how to run them."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many of them as cores, so each has one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")
