"""libnbd's Python binding, which Debian ships for its own Python only.

The binding is a C extension of the distribution (package python3-libnbd); a virtual environment
does not see it. It is loaded from the distribution's folder when the running Python has the same
version, and nothing else of that folder becomes importable.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

DISTRIBUTION_FOLDER = Path("/usr/lib/python3/dist-packages")


def load() -> ModuleType:
    """Return the module ``nbd``; raise ImportError that says what to install."""
    if "nbd" in sys.modules:
        return sys.modules["nbd"]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name, file in (("libnbdmod", f"libnbdmod{suffix}"), ("nbd", "nbd.py")):
        path = DISTRIBUTION_FOLDER / file
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.exists():
            raise ImportError(
                f"libnbd's binding for this Python ({sys.version.split()[0]}) is not at {path}; "
                "install Debian's python3-libnbd and run the tests with a Python of that version"
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules["nbd"]
