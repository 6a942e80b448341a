"""Lets a configuration group have numbers for option names, and any batch size be one.

Hydra's grammar reads the 32 of `batch_size=32` as an integer and then refuses it as an option name
("Config group override must be a string or a list. Got int"). The one place where every route
(command line, sweep, glob, range, preset, compose API, worker process) hands its choices to Hydra
is wrapped here. A second piece composes `batch_size=100` where there is no batch_size/100.yaml, a
third says in one message where a YAML file is broken. Importing this module installs all three;
`greenlab/__init__.py` does, so worker processes have them too.
"""

from hydra._internal import defaults_list
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

_GROUP = "batch_size"


class NumericOverrides(defaults_list.Overrides):
    """Hydra's overrides, with the number chosen for a group turned back into the name it was."""

    def __init__(self, repo: IConfigRepository, overrides_list: list[Override]) -> None:
        for override in overrides_list:
            if not repo.group_exists(override.key_or_group) or override.is_delete():
                continue
            if type(override._value) in (int, float):
                override._value = str(override._value)
            elif override._value is None or isinstance(override._value, bool | dict | list):
                raise ConfigCompositionException(
                    f"{override.input_line}: {override.key_or_group} is a group; choose one of "
                    f"{', '.join(repo.get_group_options(override.key_or_group))}, or several "
                    "with -m and commas between them"
                )
        # Hydra puts --config-dir behind AnyBatchSize: the user's own YAML is to come first.
        repo.get_sources().sort(key=lambda s: (s.provider == "schema", isinstance(s, AnyBatchSize)))
        super().__init__(repo, overrides_list)


class AnyBatchSize(ConfigSource):
    """Composes every positive integer as a batch size; YAML files of that name come first."""

    @staticmethod
    def scheme() -> str:
        """The prefix of its entry on Hydra's search path."""
        return "any-batch-size"

    def available(self) -> bool:
        """Always: it needs no file."""
        return True

    def is_group(self, config_path: str) -> bool:
        """It serves one group."""
        return config_path == _GROUP

    def is_config(self, config_path: str) -> bool:
        """Every option of the group, so that a bad one is refused with a message of our own."""
        return self._option(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: a glob is to see the YAML files alone."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Compose the option.

        Raises:
            ConfigCompositionException: the option is not a positive integer.
        """
        option = self._option(config_path)
        assert option is not None
        if not (option.isdecimal() and int(option) >= 1):
            raise ConfigCompositionException(
                f"batch_size={option}: a batch holds a whole number of samples, 1 or more, "
                "for example batch_size=32, batch_size=32,64,128 or 'batch_size=glob(*)'"
            )
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{config_path}",
            header={"package": None},
            config=OmegaConf.create({"size": int(option)}),
        )

    def _option(self, config_path: str) -> str | None:
        group, _, option = config_path.rpartition("/")
        return option.removesuffix(".yaml") if group == _GROUP and option else None


class AnyBatchSizePath(SearchPathPlugin):
    """Puts `AnyBatchSize` last on the search path of every composition."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it, once."""
        if not any(entry.provider == "greenlab" for entry in search_path.get_path()):
            search_path.append("greenlab", f"{AnyBatchSize.scheme()}://")


_load = ConfigRepository.load_config


def _load_yaml(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    try:
        return _load(self, config_path)
    except YAMLError as error:  # it names file and line
        raise ConfigCompositionException(f"{config_path} is not valid YAML: {error}") from error


def _install() -> None:
    ConfigRepository.load_config = _load_yaml  # type: ignore[method-assign]
    defaults_list.Overrides = NumericOverrides  # type: ignore[misc]
    plugins = Plugins.instance()
    plugins.register(AnyBatchSize)
    plugins.register(AnyBatchSizePath)


_install()
