"""Trains nnU-Net v2 and predicts, by the settings that benchmarks/nnunet.py wrote; runs in nnU-Net's environment."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

NAME = "Dataset001_Scribbles"
SETTINGS = json.loads(Path(sys.argv[1]).read_text())


class Trainer(nnUNetTrainer):
    """nnU-Net's own, for so many iterations and with next to no validation, which chooses nothing here."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = -(-SETTINGS["iterations"] // 250)
        self.num_iterations_per_epoch = SETTINGS["iterations"] // self.num_epochs
        self.num_val_iterations_per_epoch = 1

    def perform_actual_validation(self, save_probabilities=False):
        """Does nothing: there are no validation cases."""


def planned() -> dict:
    """The plan, with what the settings change of its 2-D configuration."""
    file = Path(nnUNet_preprocessed) / NAME / "nnUNetPlans.json"
    if not file.exists():
        extract_fingerprints([1], num_processes=1, check_dataset_integrity=False)
        plan_experiments([1])
        plans = json.loads(file.read_text())
        two_d = plans["configurations"]["2d"]
        two_d |= SETTINGS["configuration"]
        if features := SETTINGS["features"]:
            stages = len(features)
            two_d["architecture"]["arch_kwargs"] |= {
                "n_stages": stages,
                "features_per_stage": features,
                "kernel_sizes": [[3, 3]] * stages,
                "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
            }
        file.write_text(json.dumps(plans))
        preprocess([1], configurations=["2d"], num_processes=[1])
    return json.loads(file.read_text())


def main() -> None:
    torch.set_num_threads(SETTINGS["threads"])
    plans = planned()
    torch.manual_seed(SETTINGS["seed"])
    np.random.seed(SETTINGS["seed"])  # noqa: NPY002  # the generator that nnU-Net draws from
    os.environ.update(nnUNet_n_proc_DA="0")  # augments in this process; planning wants at least one
    dataset = json.loads((Path(nnUNet_raw) / NAME / "dataset.json").read_text())
    started = time.perf_counter()
    trainer = Trainer(plans | {"continue_training": False}, "2d", "all", dataset, torch.device("cpu"))
    trainer.run_training()
    trained = time.perf_counter()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network.eval(), trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        dataset, "nnUNetTrainer", trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    predictor.predict_from_files_sequential(SETTINGS["images"], SETTINGS["predictions"])
    times = {
        "training_minutes": round((trained - started) / 60, 1),
        "prediction_minutes": round((time.perf_counter() - trained) / 60, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    Path(sys.argv[1]).with_name("times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
