"""Strict settings for the whole suite: 8 CPU devices, x64 available, no silent promotion."""

import os
import sys
from importlib import metadata

# Most tests compile for longer than they compute: the processes that they start, too. Of three
# seconds of compiling, the emitters of fusions and splitting a small program take two.
# A flag that a later jaxlib does not know ends the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * metadata.version("jaxlib").startswith(("0.9", "0.10")),
)
# LLVM's optimisation of many small programs takes longer than all they do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_modifyitems(items):
    """Begin with the longest: none of them is left for one worker at the end."""
    items.sort(key=lambda item: item.get_closest_marker("study") is None)


@pytest.fixture
def unchecked(monkeypatch):
    """Call as a user does, without beartype in front: the library's own errors are seen."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# These train networks, and run several times as long without optimisation.
OPTIMISED = {"test_backdoor_experiment.py"}


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs(request):
    """Each compiled program maps memory; a suite of them exceeds what a process may map."""
    jax.config.update("jax_disable_most_optimizations", request.path.name not in OPTIMISED)
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_settings_of_the_command_line(monkeypatch):
    """Its cache and flags are settings of the process, and would reach all later tests."""
    monkeypatch.setattr("jaxml.cli._use_compilation_cache", lambda cache: None)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
