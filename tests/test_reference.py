"""The paper's measurements as shipped, against the coefficients that the paper prints."""

import pytest
from scipy.stats import pearsonr, spearmanr

from multirun_analysis import reference

RECORDED = reference.read_hc3()
CELLS = reference.paper_hc3()
TRAIN = CELLS[CELLS["phase"] == "train"].set_index("model")
INFERENCE = CELLS[CELLS["phase"] == "inference"].set_index("model")


@pytest.mark.parametrize(
    ("recorded", "rho_macs", "rho_macs_per_parameter"),
    [("train_100_epochs_wh", 0.807, 0.899), ("inference_100_passes_wh", 0.802, 0.855)],
)
def test_recorded_energies_have_the_printed_correlations(
    recorded: str, rho_macs: float, rho_macs_per_parameter: float
) -> None:
    energy_wh, macs = RECORDED[recorded], RECORDED["macs"]

    assert spearmanr(energy_wh, macs)[0] == pytest.approx(rho_macs, abs=5e-4)
    assert spearmanr(energy_wh, macs / RECORDED["parameters"])[0] == pytest.approx(
        rho_macs_per_parameter, abs=5e-4
    )


def test_training_takes_three_times_as_long_as_inference() -> None:
    ratio = TRAIN["time/per_sample_s"] / INFERENCE["time/per_sample_s"]

    assert ratio.median() == pytest.approx(3.29, abs=5e-3)
    assert ratio.idxmin() == "lenet"
    assert ratio.idxmax() == "regnetx_200mf"
    r, _ = pearsonr(TRAIN["time/active_s"], INFERENCE["time/active_s"])
    assert r == pytest.approx(0.969, abs=5e-4)


# GoogLeNet, training: 318.07 Wh for 100 epochs, 3.1807 Wh or 11,450.5 J for one; the GPU alone
# 68.57 W for 133.61 s, 9,161.6 J.
def test_energy_is_that_of_one_epoch_with_the_cpu_term_mended() -> None:
    assert TRAIN.loc["googlenet", "energy/gross_j"] == pytest.approx(11450.5, abs=0.1)
    assert TRAIN.loc["googlenet", "energy/gross_gpu_j"] == pytest.approx(9161.6, abs=0.1)


# LeNet, training: 11.28 % of a CPU of 65 W is 7.33 W; GoogLeNet, inference: 9.42 %, 6.12 W.
def test_what_is_left_for_the_cpu_is_its_share_of_tdp() -> None:
    assert TRAIN.loc["lenet", "power/mean_cpu_w"] == pytest.approx(7.33, abs=0.1)
    assert INFERENCE.loc["googlenet", "power/mean_cpu_w"] == pytest.approx(6.12, abs=0.1)


def test_no_net_energy_is_claimed() -> None:
    assert CELLS["energy/measured_per_sample_j"].isna().all()
    assert not [column for column in CELLS if column.startswith("energy/net")]
    assert set(CELLS["modelled"]) == {"cpu+dram"}


def test_networks_have_the_paper_s_sizes() -> None:
    assert len(TRAIN) == len(INFERENCE) == 14
    assert TRAIN.loc["vgg19", "model/parameters"] == 20_040_522  # 20.04 M, Sec. 5
    assert TRAIN.loc["vgg19", "model/macs"] == pytest.approx(400e6, rel=5e-3)
    assert TRAIN.loc["resnet18", "model/parameters"] == 11_173_962
