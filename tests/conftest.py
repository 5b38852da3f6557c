"""What the tests share."""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Helper modules lie beside the tests. The repository root stays off the path: tests see the installed code.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def synthetic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle without weights: to be read, not run."""
    from synthetic_bundle import Parts

    return Parts().write(tmp_path_factory.mktemp("synthetic") / "synthetic.litertlm")


@pytest.fixture(scope="session")
def tiny_bundle(pytestconfig: pytest.Config) -> Path:
    """The tiny pair, exported in fp32."""
    return _exported(pytestconfig, "fp32")


@pytest.fixture(scope="session")
def tiny_int8_bundle(pytestconfig: pytest.Config) -> Path:
    """The tiny pair, exported in int8."""
    return _exported(pytestconfig, "int8")


def _exported(config: pytest.Config, quantization: str) -> Path:
    """The tiny pair's bundle, kept in pytest's cache until the exporter or the pair changes."""
    import edge_mtp
    from edge_mtp import export
    from edge_mtp.export.pipeline import export_bundle

    assert edge_mtp.__file__ is not None
    assert export.__file__ is not None
    assert config.cache is not None
    tiny = Path(edge_mtp.__file__).parent / "tiny"
    sources = [*Path(export.__file__).parent.glob("*.py"), *tiny.glob("target/*"), *tiny.glob("drafter/*")]
    digest = hashlib.sha256(version("litert-torch").encode())
    for source in sorted(sources):
        digest.update(source.name.encode() + source.read_bytes())
    folder = config.cache.mkdir("bundles")
    bundle = folder / f"tiny-{quantization}-{digest.hexdigest()[:16]}.litertlm"
    if not bundle.exists():
        for stale in folder.glob(f"tiny-{quantization}-*"):
            stale.unlink()
        export_bundle(tiny / "target", tiny / "drafter", bundle, quantization=quantization)
    return bundle
