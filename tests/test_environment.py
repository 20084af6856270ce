"""The locks hold all that pyproject.toml asks for, and the environment nothing that the locks do not say."""

import sys
import sysconfig
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parents[1] / "locks"
EXTRAS = {"main": {"", "docs", "figures", "notebooks", "test", "dev"}, "transformer-lens-3": {"", "test"}}


def read(name: str) -> list[Requirement]:
    """The packages that one file of `locks/` names, for every Python and platform."""
    lines = (LOCKS / f"{name}.txt").read_text().splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]


def here(*names: str) -> dict[str, Requirement]:
    """Those that are for this Python and platform."""
    found = [requirement for name in names for requirement in read(name)]
    return {package.name: package for package in found if package.marker is None or package.marker.evaluate()}


def asked(lock: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for itself, with the extras that the lock is for."""
    found = map(Requirement, requires("lens-fv") or ())
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in found
        if requirement.name != "lens-fv"
        and (requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS[lock]))
    }


def test_nothing_is_installed_that_is_not_locked():
    stamp = Path(sys.prefix) / ".locked"
    if not stamp.exists():
        pytest.skip("this environment was not made from a lock, as `make install` makes it")
    lock = stamp.read_text().strip()
    locked = here("torch", lock)
    installed = {
        canonicalize_name(distribution.name): distribution.version
        for distribution in distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    }
    for own in ("pip", "lens-fv"):
        installed.pop(own, None)
    # A build of torch is 2.13.0+cpu, say, which `==2.13.0` lets pass. Not every build needs all of torch.txt.
    other = {
        name: version
        for name, version in installed.items()
        if name not in locked or not locked[name].specifier.contains(version, prereleases=True)
    }
    assert not other, "neither these nor these versions are locked: `make install` anew, or `make lock`"
    assert here(lock).keys() <= installed.keys()


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_holds_what_pyproject_asks_for(lock):
    both = [*read(lock), *read("torch")]
    wanted = asked(lock)
    assert wanted.keys() <= here(lock, "torch").keys(), "`make lock` adds what is missing"
    for requirement in both:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        if requirement.name in wanted:
            assert wanted[requirement.name].specifier.contains(pin.version, prereleases=True)


def test_the_locks_name_no_registry():
    assert not [path.name for path in LOCKS.iterdir() if "://" in path.read_text()]
