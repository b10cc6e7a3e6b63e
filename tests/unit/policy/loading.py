"""The policy as it is, or with one line of it changed.

A mutant is a copy of the package in which one piece of text is replaced by another; production code
needs no switches for it.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

from ovs_daemon import policy

FOLDER = Path(policy.__file__).parent
# Each imports only those before it.
MODULES = ("model", "placement", "takeover", "family", "drain", "what_if", "ranking", "ownership")

_numbers = itertools.count()


@dataclass(frozen=True)
class Mutant:
    """A deliberate fault.

    :param says: what it does wrong
    :param module: where
    :param before: text that is there exactly once
    :param caught_by: the invariant that must notice
    """

    says: str
    module: str
    before: str
    after: str
    caught_by: str


def load(mutant: Mutant | None = None) -> SimpleNamespace:
    """A copy of all policy modules."""
    package = f"policy_copy_{next(_numbers)}"
    sys.modules[package] = ModuleType(package)
    loaded = {}
    for name in MODULES:
        source = (FOLDER / f"{name}.py").read_text()
        if mutant is not None and mutant.module == name:
            count = source.count(mutant.before)
            assert count == 1, f"{mutant.says}: {mutant.before!r} is there {count} times"
            source = source.replace(mutant.before, mutant.after)
        source = source.replace("from ovs_daemon.policy.", f"from {package}.")
        module = ModuleType(f"{package}.{name}")
        # dataclasses look their module up while they are made.
        sys.modules[module.__name__] = module
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
        loaded[name] = module
    for name in (package, *(module.__name__ for module in loaded.values())):
        del sys.modules[name]
    return SimpleNamespace(**loaded)
