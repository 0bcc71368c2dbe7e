"""Strict settings for the whole suite: 8 CPU devices, x64 available, no silent promotion."""

import os
from pathlib import Path

# Most tests compile for longer than they compute: the processes that they start, too. Of three
# seconds of compiling, the emitters of fusions and splitting a small program take two.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Of what modules compute when they are collected, LLVM's optimisation takes most of the time.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_modifyitems(items):
    """Begin with the longest: none of them is left for one worker at the end."""
    items.sort(key=lambda item: item.get_closest_marker("study") is None)


@pytest.fixture
def unchecked(monkeypatch):
    """Call as a user does, without beartype in front: the library's own errors are seen."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# These compile many small programs: LLVM's optimisation of them takes longer than all they do.
UNOPTIMISED = (
    "test_api.py", "test_augment.py", "test_processes.py", "models/test_llama",
    "multifractal/test_mfdfa.py", "registration/test_register.py", "registration/test_slabs.py",
    "reproduce/", "commands/", "llm/", "output/", "selftraining/test_simclr.py",
    "speech/test_surface.py", "unlearning/",
)  # fmt: skip
# This one trains networks, and runs three times as long without.
OPTIMISED = ("reproduce/test_backdoor_experiment.py",)


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs(request):
    """Each compiled program maps memory; a suite of them exceeds what a process may map."""
    place = request.path.relative_to(Path(__file__).parent).as_posix()
    left_out = place.startswith(UNOPTIMISED) and not place.startswith(OPTIMISED)
    jax.config.update("jax_disable_most_optimizations", left_out)
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_settings_of_the_command_line(monkeypatch):
    """Its cache and flags are settings of the process, and would reach all later tests."""
    monkeypatch.setattr("jaxml.cli._use_compilation_cache", lambda: None)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
