"""Four CPU devices for every test, programs dropped after every file, what hypothesis tries, where the real data is.

Compiled programs are kept on disk for the session: many tests, and the processes that they start, compile the same.
"""

import atexit
import fcntl
import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of the process that started them
    PROGRAMS = tempfile.TemporaryDirectory(prefix="jsnn-programs-")
    atexit.register(PROGRAMS.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name
    if jax.__version_info__ < (0, 11):  # XLA's older way to make code, in half the time; a flag unknown is its end
        PLAIN_CODE = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + PLAIN_CODE
KEPT = {
    "jax_compilation_cache_dir": os.environ["JAX_COMPILATION_CACHE_DIR"],
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": 0,
    "jax_disable_most_optimizations": True,  # networks of tests are small: compiling them takes longest
}
for name, value in KEPT.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the processes that tests start
gc.set_threshold(50_000, 20, 50)  # tracing makes objects that live on: looking through them takes a twentieth of it
jax.config.update("jax_platforms", "cpu")
os.environ["JAX_PLATFORMS"] = "cpu"  # where libtpu is installed, jax asks the network for a TPU first
jax.config.update("jax_num_cpu_devices", 4)
FIXTURES = [HealthCheck.function_scoped_fixture]  # but set how programs are compiled
settings.register_profile("tests", max_examples=200, deadline=None, derandomize=True, suppress_health_check=FIXTURES)
settings.load_profile("tests")

LONG = "compile commands resume hosts real_data parity bptt trouble terminal".split()
ROOT = Path(__file__).parent.parent
DATA_DIR = Path(os.environ.get("JSNN_DATA_DIR", ROOT.parent / "shared" / "data" / "tfds"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process waits for another in the end."""
    names = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: names.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def _programs_dropped():
    """Unload a file's programs: those of a whole run exceed the 65,530 mappings of a process, and XLA would hang."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized():
    """Programs as users get them, for tests of a program's memory, its text or its last bit."""
    jax.clear_caches()  # which do not tell programs of one setting from those of the other; the kept ones do
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def float64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir() -> str:
    """The folder of prepared real data sets."""
    if not DATA_DIR.is_dir():
        pytest.skip(f"no real data in {DATA_DIR}: set JSNN_DATA_DIR to a folder of prepared TFDS data sets")
    return str(DATA_DIR)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a whole tiny run on digits, one for all workers; to be copied by whoever changes it."""
    from experiments.hybrid import hybrid
    from tests.experiments.commands import TINY, run  # which imports from here

    own = tmp_path_factory.getbasetemp()
    parent = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    workdir = parent / "tiny"
    with (parent / "tiny.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the worker that comes first makes it, the others wait
        if not workdir.exists():
            assert run(hybrid, workdir, *TINY) == 0
    return workdir


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to go on with or to damage."""
    shutil.copytree(tiny, tmp_path / "run")
    return tmp_path / "run"
