"""Finds the code that a YAML names: a function of an installed package or of a file of one's own.

Files of one's own lie beside their YAML or in the working directory. Python imports the first
module of a name that it finds, so a file that shares its name with another is refused.
"""

import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from greenlab.errors import ConfigError, first_line

_GROUPS = ("model", "dataset")  # their options name code


def import_from(config_dirs: Iterable[Path]) -> None:
    """Let models and data sets lie in a file beside the YAML that names them.

    Processes that are started from here on get these folders with the rest of `sys.path`.
    """
    folders = [
        str(folder.resolve())
        for path in config_dirs
        for group in _GROUPS
        for folder in ((path / group), *sorted((path / group).glob("**/")))
        if _holds_options(folder)
    ]
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def resolve(key: str, target: str) -> Callable[..., Any]:
    """The function or class of the dotted name `target`, which stands in `key`.

    Raises:
        ConfigError: it cannot be imported, is not callable, or could be one of several files.
    """
    _refuse_ambiguous(key, target)
    try:
        found = pkgutil.resolve_name(target)
        if isinstance(found, ModuleType):  # as torchvision.models.googlenet, also a function
            name = target.rpartition(".")[2]
            outer = getattr(sys.modules.get(target.rpartition(".")[0]), name, found)
            found = outer if callable(outer) else getattr(found, name, found)
    except (Exception, SystemExit) as error:  # whatever a module raises while it is imported
        raise ConfigError(
            f"{key}={target} cannot be imported: {type(error).__name__}: {first_line(error)}. It "
            "is the dotted name of a function or class that is installed, or that lies in the "
            "working directory or beside the YAML"
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{key}={target} is a {type(found).__name__}; name the function or class in it"
        )
    return found  # type: ignore[no-any-return]


def _refuse_ambiguous(key: str, target: str) -> None:
    module = target.partition(".")[0]
    specs = [(Path(folder), PathFinder.find_spec(module, [folder])) for folder in sys.path]
    found = {folder: spec.origin for folder, spec in specs if spec is not None and spec.origin}
    places = list(dict.fromkeys(str(Path(origin).resolve()) for origin in found.values()))
    if module in sys.builtin_module_names:
        places.append("Python itself")
    if len(places) > 1 and any(_is_own(folder) for folder in found):
        raise ConfigError(
            f"{key}={target}: there is more than one {module}: {', '.join(places)}. Give the file "
            "a name of its own"
        )


def _is_own(folder: Path) -> bool:
    return not set(_GROUPS).isdisjoint(folder.parts) and _holds_options(folder)


def _holds_options(folder: Path) -> bool:
    return any(folder.glob("*.yaml"))
