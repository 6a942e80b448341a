"""Lets a configuration group have numbers for option names, and any batch size or sweep be one.

Hydra's grammar reads the 32 of `batch_size=32` as an integer and then refuses it as an option name
("Config group override must be a string or a list. Got int"). The one place where every route
(command line, sweep, glob, range, preset, compose API, worker process) hands its choices to Hydra
is wrapped here. A second piece composes `batch_size=100` where there is no batch_size/100.yaml, and
`resume=NAME`; a third says in one message where a YAML file is broken; a fourth lists the options
of a group in no time. Importing this module installs all four; `greenlab/__init__.py` does, so
worker processes have them too.
"""

from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from yaml import YAMLError

_BOOLEANS = {True: "true", False: "false"}


class NumericOverrides(defaults_list.Overrides):
    """Hydra's overrides, with the number chosen for a group turned back into the name it was."""

    def __init__(self, repo: IConfigRepository, overrides_list: list[Override]) -> None:
        for override in overrides_list:
            if not repo.group_exists(override.key_or_group) or override.is_delete():
                continue
            options = repo.get_group_options(override.key_or_group)
            if type(override._value) in (int, float):
                override._value = str(override._value)
            elif type(override._value) is bool and _BOOLEANS[override._value] in options:
                override._value = _BOOLEANS[override._value]
            elif override._value is None or isinstance(override._value, bool | dict | list):
                raise ConfigCompositionException(
                    f"{override.input_line}: {override.key_or_group} is a group; choose one of "
                    f"{', '.join(options)}, or several with -m and commas between them"
                )
        # Hydra puts --config-dir behind AnyOption: the user's own YAML is to come first.
        repo.get_sources().sort(key=lambda s: (s.provider == "schema", isinstance(s, AnyOption)))
        super().__init__(repo, overrides_list)


def _batch_size(option: str) -> dict[str, Any]:
    if not (option.isdecimal() and int(option) >= 1):
        raise ConfigCompositionException(
            f"batch_size={option}: a batch holds a whole number of samples, 1 or more, "
            "for example batch_size=32, batch_size=32,64,128 or 'batch_size=glob(*)'"
        )
    return {"size": int(option)}


def _resume(option: str) -> dict[str, Any]:
    return {"sweep": option}


_COMPOSE = {"batch_size": _batch_size, "resume": _resume}
"""Groups in which any option will do, and what it stands for."""


class AnyOption(ConfigSource):
    """Composes options that no YAML file holds: positive batch sizes, names of sweeps."""

    @staticmethod
    def scheme() -> str:
        """The prefix of its entry on Hydra's search path."""
        return "any-option"

    def available(self) -> bool:
        """Always: it needs no file."""
        return True

    def is_group(self, config_path: str) -> bool:
        """It serves the groups of the table above."""
        return config_path in _COMPOSE

    def is_config(self, config_path: str) -> bool:
        """Every option of those groups, so that a bad one is refused with a message of our own."""
        return self._option(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: a glob is to see the YAML files alone."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Compose the option.

        Raises:
            ConfigCompositionException: it is none of its group.
        """
        found = self._option(config_path)
        assert found is not None
        group, option = found
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{config_path}",
            header={"package": None},
            config=OmegaConf.create(_COMPOSE[group](option)),
        )

    def _option(self, config_path: str) -> tuple[str, str] | None:
        group, _, option = config_path.rpartition("/")
        return (group, option.removesuffix(".yaml")) if group in _COMPOSE and option else None


class AnyOptionPath(SearchPathPlugin):
    """Puts `AnyOption` last on the search path of every composition."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it, once."""
        if not any(entry.provider == "greenlab" for entry in search_path.get_path()):
            search_path.append("greenlab", f"{AnyOption.scheme()}://")


_load = ConfigRepository.load_config


def _load_yaml(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    try:
        return _load(self, config_path)
    except YAMLError as error:  # it names file and line
        raise ConfigCompositionException(f"{config_path} is not valid YAML: {error}") from error


_list = ConfigLoaderImpl.get_group_options


def _list_options(
    self: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    """Without overrides the search path is as it was: Hydra need not copy all for each answer."""
    if config_name is None and not overrides:
        return self.repository.get_group_options(group_name, results_filter)
    return _list(self, group_name, results_filter, config_name, overrides)


def _install() -> None:
    ConfigRepository.load_config = _load_yaml  # type: ignore[method-assign]
    ConfigLoaderImpl.get_group_options = _list_options  # type: ignore[method-assign]
    defaults_list.Overrides = NumericOverrides  # type: ignore[misc]
    plugins = Plugins.instance()
    plugins.register(AnyOption)
    plugins.register(AnyOptionPath)


_install()
