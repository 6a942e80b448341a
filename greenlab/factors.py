"""A grid's cells put together from what its factors stand for; Hydra takes 50 ms for each cell.

A factor is a part of the settings, `model` or `seed`, that the command line gives several values.
Hydra composes each value of a factor once, in the place of the first cell's, and a cell takes its
parts from there. That is the same as composing the cell as long as no part depends on another:
where an option brings a defaults list or a package of its own, a value refers to another one, or an
override reaches further than one part, cells go Hydra's way, one by one. So do cells that are
refused: by Hydra, in its words.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from greenlab import config as configuration
from greenlab.config import Config
from greenlab.errors import ConfigError

PARTS = {one.name for one in fields(Config)}
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")
"""The one reference that a value may hold: the same in every cell."""

Lines = tuple[str, ...]
"""Overrides, as the command line has them."""


class EntangledError(Exception):
    """A part may depend on another one: only composing the cell as a whole tells what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What the overrides at one place of the command line are about."""

    part: str
    """The only part of the settings that they reach; empty where that is not known."""
    is_option: bool
    """Whether they choose an option of a group, or set a value."""
    varies: bool


class Factory:
    """Composes the cells of a multirun; `master` is what Hydra composed for all of them."""

    def __init__(
        self, loader: ConfigLoaderImpl, master: DictConfig, cells: Sequence[Sequence[str]]
    ) -> None:
        self._loader, self._master = loader, master
        self._parsed: dict[str, Override] = {}
        places = [
            self._place(column[0], varies=len(set(column)) > 1)
            for column in zip(*cells, strict=True)
        ]
        factors = {place.part for place in places if place.varies} - {""}
        if master.hydra.searchpath:  # options from elsewhere, which this loader does not see
            factors = set()
        self._factor_of = [
            place.part if place.part in factors and (place.varies or not place.is_option) else ""
            for place in places
        ]
        self._is_option = [place.is_option for place in places]
        self._families: dict[Lines, Family | None] = {}

    def _place(self, line: str, *, varies: bool) -> Place:
        override = self.parse(line)
        key = override.key_or_group
        is_option = self._loader.repository.group_exists(key)
        is_plain = not is_option or not (override.is_add() or override.is_delete())
        part = key if is_option else key.partition(".")[0]
        is_known = part in PARTS and override.package is None and is_plain
        return Place(part=part if is_known else "", is_option=is_option, varies=varies)

    def parse(self, line: str) -> Override:
        """Read one override, once."""
        if line not in self._parsed:
            [self._parsed[line]] = OverridesParser.create(self._loader).parse_overrides([line])
        return self._parsed[line]

    def compose(self, cell: Sequence[str]) -> Config:
        """Its settings, as Hydra composes them.

        Raises:
            ConfigError, HydraException, OmegaConfBaseException: it does not compose.
        """
        shared = tuple(self._of("", cell))
        if shared not in self._families:
            return self._found(shared, cell)
        family = self._families[shared]
        if family is not None:
            try:
                return family.compose(cell)
            except (EntangledError, ConfigError, HydraException, OmegaConfBaseException):
                pass  # what is wrong with it, if anything, is said by Hydra
        return self._compose_whole(cell)

    def _found(self, shared: Lines, cell: Sequence[str]) -> Config:
        """Compose the first cell of a family, and prepare for those like it."""
        first = self._compose_whole(cell)
        self._families[shared] = None
        if any(self._factor_of):
            try:
                family = Family(self, cell, first)
                if family.compose(cell) == first:
                    self._families[shared] = family
            except (EntangledError, ConfigError, HydraException, OmegaConfBaseException):
                pass
        return first

    def _compose_whole(self, cell: Sequence[str]) -> Config:
        return configuration.from_omegaconf(self.load(cell))

    # ---------------------------------------------------------------------- what families ask for

    def load(self, lines: Sequence[str]) -> DictConfig:
        """Everything that Hydra composes of these overrides, values as they are written."""
        return self._loader.load_sweep_config(self._master, list(lines))

    def factors(self) -> list[str]:
        """The parts that cells are put together from."""
        return [part for part in dict.fromkeys(self._factor_of) if part]

    def options(self, factor: str, cell: Sequence[str]) -> Lines:
        """The overrides that choose an option of a factor."""
        return tuple(self._of(factor, cell, is_option=True))

    def values(self, factor: str, cell: Sequence[str]) -> Lines:
        """The overrides that set values in a factor, in their order."""
        return tuple(self._of(factor, cell, is_option=False))

    def without_values(self, cell: Sequence[str], factor: str, like: Sequence[str]) -> list[str]:
        """`cell` without the values of its factors, `factor`'s option chosen as in `like`."""
        return [
            other if self._factor_of[place] == factor else line
            for place, (line, other) in enumerate(zip(cell, like, strict=True))
            if not self._factor_of[place] or self._is_option[place]
        ]

    def _of(
        self, factor: str, cell: Sequence[str], *, is_option: bool | None = None
    ) -> Iterator[str]:
        for place, line in enumerate(cell):
            is_asked = is_option is None or self._is_option[place] == is_option
            if self._factor_of[place] == factor and is_asked:
                yield line

    def check_lists(self, lines: Sequence[str]) -> dict[str, str | None]:
        """The package that each option on the defaults list goes to.

        Raises:
            EntangledError: which options are taken may depend on others.
        """
        found: dict[str, str | None] = {}
        name = self._master.hydra.job.config_name
        own = [*self._master.hydra.overrides.hydra, *lines]
        for default in self._loader.compute_defaults_list(name, own, RunMode.RUN).defaults:
            path = default.config_path or ""
            loaded = self._loader.repository.load_config(path)
            if loaded is None or path in found or "${" in repr(loaded.defaults_list):
                raise EntangledError
            found[path] = default.package
        return found

    def is_plain(self, option: str) -> bool:
        """Whether it names no other options and leaves it to its group where it goes."""
        loaded = self._loader.repository.load_config(option)
        return bool(loaded and not loaded.defaults_list and loaded.header["package"] is None)


class Family:
    """Cells that differ in their factors alone."""

    def __init__(self, factory: Factory, first: Sequence[str], config: Config) -> None:
        self._factory, self._first, self._config = factory, first, config
        self._stem = factory.load(factory.without_values(first, "", first))
        _refuse_references(self._stem)
        self._packages = factory.check_lists(factory.without_values(first, "", first))
        self._composed: dict[tuple[str, Lines], DictConfig] = {}
        self._parts: dict[tuple[str, Lines, Lines], Any] = {}

    def compose(self, cell: Sequence[str]) -> Config:
        """Put a cell together.

        Raises:
            EntangledError: it has to be composed as a whole.
            ConfigError, HydraException, OmegaConfBaseException: it may not compose at all.
        """
        parts = {factor: self._part(factor, cell) for factor in self._factory.factors()}
        return replace(self._config, **parts)

    def _part(self, factor: str, cell: Sequence[str]) -> Any:
        chosen, values = self._factory.options(factor, cell), self._factory.values(factor, cell)
        key = (factor, chosen, values)
        if key not in self._parts:
            written = OmegaConf.masked_copy(self._with_option(factor, chosen, cell), [factor])
            OmegaConf.set_struct(written, True)
            parsed = [self._factory.parse(line) for line in values]
            ConfigLoaderImpl._apply_overrides_to_config(parsed, written)
            _refuse_references(written)
            self._parts[key] = configuration.read_part(factor, written)
        return self._parts[key]

    def _with_option(self, factor: str, chosen: Lines, cell: Sequence[str]) -> DictConfig:
        """The factor as it is before its own values are set."""
        if (factor, chosen) not in self._composed:
            whole = self._stem
            if chosen != self._factory.options(factor, self._first):
                whole = self._factory.load(self._factory.without_values(self._first, factor, cell))
            if chosen:
                self._check_option(factor, whole)
            self._composed[factor, chosen] = OmegaConf.masked_copy(whole, [factor])
        return self._composed[factor, chosen]

    def _check_option(self, factor: str, whole: DictConfig) -> None:
        first, option = (
            f"{factor}/{composed.hydra.runtime.choices[factor]}" for composed in (self._stem, whole)
        )
        if self._packages.get(first) != factor or not self._factory.is_plain(option):
            raise EntangledError


def _refuse_references(composed: DictConfig) -> None:
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    if any("${" in ENVIRONMENT.sub("", text) for text in _texts(OmegaConf.to_container(settings))):
        raise EntangledError


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value
