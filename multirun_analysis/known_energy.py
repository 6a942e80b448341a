"""Which energy of a series there is to compare models by, and what must be said with it."""

import pandas as pd

from multirun_analysis import runs

MEASURED = "measured, idle subtracted"
GROSS_GPU = "gross GPU energy: idle was not subtracted"
MODELLED = "~modelled"
PER_SAMPLE_J = "energy/measured_per_sample_j"


def with_known_energy(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Choose the energy by which the models of one series are compared, and say what it is.

    Measured energy net of idle; where there is none, the GPU's gross energy if that is measured, in
    the same columns and without an uncertainty. `MODELLED` where there is neither: what is left
    then is time in other words.
    """
    if runs.column(cells, PER_SAMPLE_J).notna().any():
        return cells, MEASURED
    gross_gpu_j = runs.column(cells, "energy/gross_gpu_j")
    measured = cells["source_gpu"].str.startswith("measured")
    if (measured & gross_gpu_j.notna()).any():
        per_sample_j = gross_gpu_j.where(measured) / runs.column(cells, "work/samples")
        return cells.assign(**{PER_SAMPLE_J: per_sample_j}), GROSS_GPU
    return cells, MODELLED
