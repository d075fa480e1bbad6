"""What is shipped: the wheel's contents, and the bare install."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import files, requires
from pathlib import Path

import pytest

LIGHT = {
    "googleapis-common-protos",
    "grpcio",
    "grpcio-status",
    "numpy",
    "protobuf",
    "tqdm",
    "typing-extensions",
    "urllib3",
    "xxhash",
}


def test_the_client_depends_on_little() -> None:
    plain = {
        requirement.split(">")[0]
        for requirement in requires("metalm") or []
        if "extra" not in requirement
    }
    assert plain <= LIGHT


def test_the_wheel_holds_the_three_packages_and_their_data() -> None:
    shipped = {str(path) for path in files("metalm") or []}
    if any("__editable__" in path or path.endswith(".pth") for path in shipped):
        pytest.skip("installed from the tree, not from the wheel")
    for path in (
        "metalm/py.typed",
        "metalm/bench/generator.c",
        "metalm/eval/report.schema.json",
        "metalm_proto/py.typed",
        "metalm_proto/published_curves.json",
        "metalm_proto/v1/metalm_pb2.pyi",
        "metalm_service/py.typed",
        "metalm_service/web/index.html",
    ):
        assert path in shipped
    tops = {path.split("/")[0] for path in shipped if not path.startswith("..")}
    assert tops == {
        "metalm",
        "metalm_proto",
        "metalm_service",
        *(t for t in tops if "dist-info" in t),
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with what `pip install .` brings and nothing else.

    The packages are those installed here, linked one by one: the same files, without a download.
    """
    directory = tmp_path_factory.mktemp("bare")
    venv.create(directory, with_pip=False)
    (target,) = directory.glob("lib/python*/site-packages")
    for name in LIGHT | {"metalm"}:
        for path in files(name) or []:
            top = Path(str(path)).parts[0]
            source = Path(str(path.locate()))
            while source.name != top and source != source.parent:
                source = source.parent
            if top not in ("..", "__pycache__") and source.exists() and not (target / top).exists():
                (target / top).symlink_to(source)
    # google/ is shared by protobuf and googleapis, as a folder of both.
    return directory / "bin" / "python"


def run(python: Path, code: str, **environment: str) -> str:
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bare_install_generates_with_numpy(bare: Path) -> None:
    code = (
        "import sys; from metalm import MetaLMClient; client = MetaLMClient('inprocess:');"
        "batch = client.batch(0, V=64, n=10, l=64, e=.1, L=4096, batch_size=2, seed=7);"
        "print(f'{batch.digest:016x}', client.describe().engine);"
        "bad = {'numba', 'fastapi', 'torch', 'uvicorn', 'scipy'} & set(sys.modules);"
        "assert not bad, bad"
    )
    assert run(bare, code).split() == ["db5c1c62f07798ad", "numpy"]


def test_the_bare_install_says_what_the_service_needs(bare: Path) -> None:
    done = subprocess.run([bare, "-m", "metalm", "serve"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install '.[service]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_bare_install_says_what_evaluation_needs(bare: Path) -> None:
    """The presets need nothing."""
    flags = ("-V", "8", "-L", "9", "--samples", "1", "--no-files")
    done = subprocess.run([bare, "-m", "metalm", "floors", *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install '.[core]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    run(bare, "import sys; from metalm.cli import main; sys.exit(main(['presets']))")


def test_the_bare_install_says_what_its_integrations_need(bare: Path) -> None:
    code = "import metalm.source\ntry:\n import metalm.torch\nexcept ImportError as error: print(error)"
    assert run(bare, code).startswith("metalm.torch needs PyTorch")


def test_the_bare_install_says_what_the_environment_needs(bare: Path) -> None:
    code = "import metalm\ntry:\n    import metalm.gym\nexcept ImportError as error: print(error)"
    assert run(bare, code).strip() == (
        "metalm.gym needs gymnasium; install it with: pip install '.[gym]'"
    )


def test_this_is_the_python_that_is_supported() -> None:
    assert sys.version_info >= (3, 11)
