"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--all-values",
        action="store_true",
        help="call the page's functions with every hostile value there is, not a few: 15 minutes",
    )
