"""What every model of the configuration weighs: built and counted on the CPU, nothing measured."""

import json
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from greenlab import grid
from greenlab.config import Config
from greenlab.errors import GreenlabError
from greenlab.model_profile import LayerMacs, count_macs_by_layer_type, profile_model
from greenlab.network import (
    build_model,
    check_output,
    contained,
    find_input_shape,
    gives_scores,
)
from greenlab.record import ModelProfile
from greenlab.terminal import open_console


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A model and what it weighs for one sample of `input_shape`, (channels, height, width)."""

    model: str
    overrides: tuple[str, ...]
    target: str
    input_shape: tuple[int, int, int]
    takes_the_data: bool
    """Whether input_shape is the data's, and not another that the model takes instead."""
    num_classes: int
    profile: ModelProfile
    macs_by_layer_type: dict[str, LayerMacs]


def show(overrides: Sequence[str], config_dir: Path | None, *, as_json: bool) -> int:
    """Print the cards of what `overrides` choose; 1 where some model has none, else 0."""
    logging.getLogger("greenlab.model_profile").setLevel(logging.ERROR)  # said below the table
    # What a builder prints is not to come between a program and its JSON.
    with redirect_stdout(sys.stderr), grid.open_options(config_dir):
        cards, problems = _make_cards(overrides)
    if as_json:
        print(json.dumps([_to_json(card) for card in cards], indent=2))
    elif cards:
        _print_tables(cards)
    for problem in problems:
        print(f"greenlab: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _make_cards(overrides: Sequence[str]) -> tuple[list[Card], list[str]]:
    """The cards, and what stood in the way of others, each problem once."""
    if not any(override.startswith(("model=", "model._target_=")) for override in overrides):
        overrides = ["model=glob(*)", *overrides]
    cards, problems = [], []
    try:
        grid.adopt_own_options(grid.compose_hydra(overrides))
        cells = grid.split(overrides)
    except GreenlabError as error:
        return [], [str(error)]
    with open_console(stderr=True).status("") as progress:
        for number, cell in enumerate(cells, start=1):
            progress.update(f"counting {' '.join(cell)} ({number}/{len(cells)})")
            try:
                config = grid.compose_one(cell)
            except GreenlabError as error:  # often the same one for every model
                problems.append(str(error))
                continue
            try:
                cards.append(make_card(config, cell))
            except GreenlabError as error:
                problems.append(f"{' '.join(cell)}: {error}")
    return cards, list(dict.fromkeys(problems))


def make_card(config: Config, overrides: Sequence[str]) -> Card:
    """Build and count the model of `config`, which `overrides` have composed.

    Raises:
        ConfigError: its builder cannot be imported.
        ModelError: it cannot be built or counted, or there is no image of a common shape for
            which it gives one score per class.
    """
    data, device = config.dataset, torch.device("cpu")
    options = [one.removeprefix("model=") for one in overrides if one.startswith("model=")]
    model = options[-1] if options else config.model._target_
    of_data = (data.num_channels, data.image_size, data.image_width or data.image_size)
    with contained():
        network = build_model(config.model, data.num_classes)
        takes_the_data = gives_scores(network, of_data, data.num_classes, device)
        shape = (
            of_data
            if takes_the_data
            else find_input_shape(network, data.num_classes, device) or of_data
        )
        sample = torch.zeros(1, *shape)
        check_output(network, sample, config)
        profile = profile_model(network, sample)
        macs_by_layer_type = count_macs_by_layer_type(network, sample)
    return Card(
        model=model,
        overrides=tuple(override for override in overrides if override != f"model={model}"),
        target=config.model._target_,
        input_shape=shape,
        takes_the_data=takes_the_data,
        num_classes=data.num_classes,
        profile=profile,
        macs_by_layer_type=macs_by_layer_type,
    )


def _to_json(card: Card) -> dict[str, Any]:
    fields = asdict(card)
    profile, by_layer_type = fields.pop("profile"), fields.pop("macs_by_layer_type")
    per_parameter = card.profile.macs_per_parameter
    derived = {
        "size_bytes": card.profile.size_bytes,
        "macs_per_parameter": per_parameter if math.isfinite(per_parameter) else None,
    }
    return {**fields, **profile, **derived, "macs_by_layer_type": by_layer_type}


def _print_tables(cards: Sequence[Card]) -> None:
    console = open_console()
    console.print(_overview(cards))
    notes = [
        "MACs of one sample: by thop, which adds normalisation and pooling to the convolutions and "
        "matrix products that the exact count holds, and skips what it has no rule for. Size: "
        "parameters and buffers. MACs per parameter: thop's, over trainable parameters (over all "
        "where none is)."
    ]
    if not all(card.takes_the_data for card in cards):
        notes.append(
            "* does not take the data's shape: run it with dataset=synthetic, and with "
            "dataset.num_channels and dataset.image_size as in its row."
        )
    notes += [
        f"thop has no rule for {', '.join(card.profile.uncounted_layers)} in {card.model} and "
        "counts them as zero."
        for card in cards
        if card.profile.uncounted_layers
    ]
    for note in notes:
        console.print(note, highlight=False)
    if len(cards) == 1:
        console.print(_by_layer_type(cards[0]))


def _overview(cards: Sequence[Card]) -> Table:
    frozen = any(card.profile.trainable_parameters < card.profile.parameters for card in cards)
    same = set(cards[0].overrides).intersection(*(card.overrides for card in cards))
    table = Table(title="Models", title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("input", justify="right", overflow="fold")
    for column in ("parameters", *(["trainable"] if frozen else []), "size MB", "MACs ×10⁶"):
        table.add_column(column, justify="right", overflow="fold")
    for column in ("exact ×10⁶", "thop above exact", "MACs/parameter"):
        table.add_column(column, justify="right", overflow="fold")
    for card in cards:
        profile = card.profile
        table.add_row(
            " ".join([card.model, *(one for one in card.overrides if one not in same)]),
            "×".join(map(str, card.input_shape)) + ("" if card.takes_the_data else "*"),
            f"{profile.parameters:,}",
            *([f"{profile.trainable_parameters:,}"] if frozen else []),
            f"{profile.size_bytes / 1e6:,.2f}",
            f"{profile.macs / 1e6:,.2f}",
            f"{profile.macs_exact / 1e6:,.2f}",
            f"{profile.macs / profile.macs_exact - 1:.2%}" if profile.macs_exact else "–",
            f"{profile.macs_per_parameter:,.1f}" if profile.parameters else "–",
        )
    return table


def _by_layer_type(card: Card) -> Table:
    table = Table(title=f"MACs of {card.model} by layer type", title_justify="left")
    table.add_column("layer type")
    for column in ("thop", "exact", "difference"):
        table.add_column(column, justify="right")
    for name, macs in card.macs_by_layer_type.items():
        counts = (macs.macs, macs.macs_exact, macs.macs - macs.macs_exact)
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table
