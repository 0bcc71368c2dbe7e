"""Strict settings for the whole suite: 8 CPU devices, x64 available, no silent promotion."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def unchecked(monkeypatch):
    """Call as a user does, without beartype in front: the library's own errors are seen."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Each compiled program maps memory; a suite of them exceeds what a process may map."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_compilation_cache(monkeypatch):
    """The command line's cache is a setting of the process, and would reach all later tests."""
    monkeypatch.setattr("jaxml.cli._use_compilation_cache", lambda: None)
