"""What the tests share."""

import sys
from pathlib import Path

import pytest

# Helper modules lie beside the tests. The repository root stays off the path: tests see the installed code.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def synthetic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle without weights: to be read, not run."""
    from synthetic_bundle import Parts

    return Parts().write(tmp_path_factory.mktemp("synthetic") / "synthetic.litertlm")
