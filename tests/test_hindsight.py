"""Which profile is held against which full run, and what each is told, whichever landed first."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from profiled import full_run, profile

from greenlab.hindsight import Finding, Known, are_comparable, findings, newest_profile
from greenlab.record import Doubt, Record

WRONG = [Doubt(code="c", seen="s", remedy="r", severity="invalid")]


def known(record: Record) -> Known:
    return Known(run_id=record.cell.uid, record=record)


def told(landed: Record, *others: Record) -> dict[str, Finding]:
    return {one.run_id: one for one in findings(known(landed), [known(one) for one in others])}


# 5 ms per sample in both; 10 % more where the profile was slower.
@pytest.mark.parametrize(("ms", "percent"), [(5.0, 0.0), (5.5, 10.0), (4.0, -20.0)])
def test_the_error_is_that_of_the_stretches_per_sample(ms: float, percent: float) -> None:
    found = told(full_run(), profile(train_ms=[ms] * 4))["full"].metrics

    # From a cold to a warm machine 0.5 % in time and 2 % in power are expected on top, at most.
    assert found["predicted/time_error_percent"] == pytest.approx(percent, abs=1.0)
    assert found["predicted/gross_error_percent"] == pytest.approx(percent, abs=3.5)
    assert found["predicted/is_inside"] == (1.0 if percent == 0 else 0.0)
    # 4 stretches of 0.5 s to a run of 15 s.
    assert found["predicted/profile_share_percent"] == pytest.approx(100 * 2 / 15)


def test_both_are_told_whichever_landed_last() -> None:
    of_run, of_profile = told(full_run(), profile()), told(profile(), full_run())

    assert of_run == of_profile
    assert of_run["full"].tags == {"greenlab.profile": "profile"}
    assert of_run["profile"].tags == {"greenlab.full_train": "full"}
    assert (
        of_run["profile"].metrics["predicted/train_error_percent"]
        == (of_run["full"].metrics["predicted/error_percent"])
    )


def test_a_run_hears_of_the_newest_profile_alone() -> None:
    older = profile(uid="older", started_at_s=1.0, train_ms=[6.0] * 4)
    newer = profile(uid="newer", started_at_s=2.0)

    assert told(full_run(), older, newer)["full"].tags == {"greenlab.profile": "newer"}
    # The older one lands late: the run knows better already; the older one still hears of the run.
    assert set(told(older, full_run(), newer)) == {"older"}
    assert told(newer, full_run(), older)["full"].told_at_s == newer.ended_at_s


def test_a_profile_hears_of_the_newest_run_of_each_kind() -> None:
    both = profile(inference_ms=[5.0] * 4)
    runs = [
        full_run(uid="old", started_at_s=1.0),
        full_run(uid="new", started_at_s=2.0),
        full_run(uid="other", started_at_s=1.5, kind="inference"),
    ]

    found = told(both, *runs)
    all_found = findings(known(both), [known(run) for run in runs])
    tags = [one.tags for one in all_found if one.run_id == "profile"]

    assert set(found) == {"old", "new", "other", "profile"}
    assert tags == [{"greenlab.full_train": "new"}, {"greenlab.full_inference": "other"}]


def test_a_profile_without_stretches_of_a_kind_says_nothing_of_it() -> None:
    assert told(full_run(kind="inference"), profile(inference_ms=())) == {}


def _on_another_device(record: Record) -> Record:
    assert record.measurement is not None
    return replace(record, measurement=replace(record.measurement, device="cpu"))


def _modelled(record: Record) -> Record:
    assert record.measurement is not None
    sources = [replace(s, provenance="modelled:tdp") for s in record.measurement.sources]
    return replace(record, measurement=replace(record.measurement, sources=sources))


def _limited(record: Record) -> Record:
    assert record.measurement is not None
    trace = replace(record.measurement.trace, power_limits_w={"gpu0": [200.0], "gpu1": [350.0]})
    return replace(record, measurement=replace(record.measurement, trace=trace))


@pytest.mark.parametrize(
    "other",
    [
        lambda: full_run(machine="elsewhere"),
        lambda: full_run(batch_size=128),
        lambda: full_run(model="lenet"),
        lambda: _on_another_device(full_run()),
        lambda: _modelled(full_run()),
        lambda: _limited(full_run()),
        lambda: full_run(doubts=WRONG),
        lambda: full_run(status="FAILED"),
    ],
)
def test_nothing_is_carried_over_to_what_is_not_the_same(other: Callable[[], Record]) -> None:
    assert are_comparable(profile(), full_run())
    assert not are_comparable(profile(), other())
    assert told(other(), profile()) == {}


def test_a_profile_whose_joules_are_wrong_is_passed_over() -> None:
    wrong = profile(uid="wrong", started_at_s=2.0, doubts=WRONG)
    good = profile(uid="good", started_at_s=1.0)

    found = newest_profile(known(full_run()), [known(wrong), known(good)])

    assert found is not None
    assert found.run_id == "good"


def test_how_long_a_run_is_does_not_part_it_from_its_profile() -> None:
    run = full_run()
    cell = run.cell
    longer = replace(
        cell, config=cell.config | {"phase": cell.config["phase"] | {"epochs": 90}, "seed": 3}
    )

    assert are_comparable(profile(), replace(run, cell=longer))
