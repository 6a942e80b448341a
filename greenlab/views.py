"""Ready-made pages of charts in MLflow's UI, stored with the experiment.

MLflow keeps a saved view as a compressed JSON tag of the experiment. The format is not public; it
was read off MLflow 3.17.2, to which greenlab is pinned, and a test holds it against that release.
"""

import base64
import hashlib
import json
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

Card = dict[str, Any]

CELLS = "tags.`greenlab.kind` = 'cell'"
COLUMNS = [
    "params.`model`",
    "params.`batch_size`",
    "params.`phase`",
    "params.`device`",
    "metrics.`energy/net_j`",
    "metrics.`energy/net_per_sample_j`",
    "metrics.`power/mean_w`",
    "metrics.`time/active_s`",
    "metrics.`task/accuracy`",
    "tags.`greenlab.verdict`",
    "tags.`greenlab.coverage`",
    "tags.`energy_source.gpu`",
    "tags.`energy_source.cpu`",
    "tags.`greenlab.sweep`",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A page of charts over a selection of runs."""

    name: str
    filter: str
    cards: Sequence[Card]
    group_by: Sequence[str] = ()
    """Params over whose values runs are averaged."""
    num_columns: int = 2
    """Charts side by side."""
    chart_height: int = 400
    """Pixels."""

    @property
    def key(self) -> str:
        """Names the view in addresses; the same in every experiment."""
        return "greenlab-" + hashlib.sha256(self.name.encode()).hexdigest()[:12]


def bar(metric: str) -> Card:
    """One bar per run, or per group of runs."""
    return {"type": "BAR", "metricKey": metric}


def scatter(x: str, y: str) -> Card:
    """One point per run."""
    return {
        "type": "SCATTER",
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
    }


def parallel(params: Sequence[str], metrics: Sequence[str]) -> Card:
    """One line per run through an axis per factor and metric."""
    return {
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }


def line(metric: str) -> Card:
    """A series over its steps."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
    }


def _components(pattern: str) -> list[Card]:
    return [bar(pattern.format(component)) for component in ("gpu", "cpu", "dram")]


VIEWS = (
    View(name="Table of cells", filter=CELLS, cards=[]),
    View(
        name="Net joules per model",
        filter=CELLS,
        cards=[bar("energy/net_per_sample_j"), bar("energy/net_j"), bar("time/samples_per_s")],
        group_by=["model", "phase"],
    ),
    View(
        name="Energy against accuracy",
        filter=f"{CELLS} and params.phase = 'train'",
        cards=[
            scatter("energy/net_j", "task/accuracy"),
            scatter("model/macs_per_parameter", "energy/net_per_sample_j"),
            line("epoch/accuracy"),
        ],
    ),
    View(
        name="Power by component",
        filter=CELLS,
        cards=[*_components("power/mean_{}_w"), *_components("power/idle_{}_w")],
    ),
    View(
        name="Parallel coordinates",
        filter=CELLS,
        cards=[
            parallel(
                ["model", "batch_size", "phase"],
                ["energy/net_per_sample_j", "power/mean_w", "task/accuracy"],
            )
        ],
        num_columns=1,
        chart_height=520,
    ),
)


def link(experiment_id: str, view: View) -> str:
    """The view's address, relative to the server's."""
    query = urlencode(
        {
            "workflowType": "machine_learning",
            "compareRunsMode": "CHART" if view.cards else "TABLE",
            "viewStateShareKey": view.key,
        }
    )
    return f"#/experiments/{experiment_id}/runs?{query}"


def experiment_tags(now_ms: int) -> dict[str, str]:
    """The tags that hold the views, and the experiment's description."""
    tags = {f"mlflow.sharedViewState.{view.key}": _encode(view, now_ms) for view in VIEWS}
    tags["mlflow.experimentKind"] = "custom_model_development"
    tags["mlflow.note.content"] = (
        "Energy of machine-learning workloads, measured by greenlab. One run is one cell of a "
        "grid (`greenlab.kind = cell`); a multirun leaves one run of its own "
        "(`greenlab.kind = sweep`). Net energy is gross energy less the idle machine's."
    )
    return tags


def _encode(view: View, now_ms: int) -> str:
    state = json.dumps(_state(view)).encode()
    packed = "deflate;" + base64.b64encode(zlib.compress(state)).decode()
    return json.dumps(
        {"name": view.name, "createdAt": now_ms, "updatedAt": now_ms, "state": packed}
    )


def _state(view: View) -> dict[str, Any]:
    section = _identifier(view, "section")
    group_by = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": param} for param in view.group_by],
    }
    return {
        "searchFilter": view.filter,
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {
                "uuid": _identifier(view, str(number)),
                "metricSectionId": section,
                "deleted": False,
                "isGenerated": False,
                "runsCountToCompare": 100,
                **card,
            }
            for number, card in enumerate(view.cards)
        ],
        "compareRunSections": [
            {
                "uuid": section,
                "name": view.name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": view.num_columns,
                "cardHeight": view.chart_height,
            }
        ],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "groupBy": group_by if view.group_by else None,
    }


def _identifier(view: View, part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{view.key}/{part}"))
