"""Take over what another run has done: its ANN, and its conversion where that would come out the same.

Many questions ask for several fine-tunes of one ANN, which need not be trained again for each.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.config import difference
from experiments.runs.progress import say
from experiments.runs.records import GROUP_OF, NETWORK_OF, config_of, is_alike, read_stages
from experiments.runs.schema import Results
from experiments.runs.stages import ends_at, finish, is_done, measured, note_loss
from experiments.runs.workdir import Run, checkpoints
from jsnn.training.files import move_folder, remove_folder
from jsnn.training.hosts import on_first_process
from jsnn.training.metrics import rewrite

OFFERED = ("train_ann", "convert")
ARRIVING = "arriving"  # a folder of checkpoints while it is copied


def adopt(run: Run, donor: Path, taken_over: Sequence[str] = OFFERED) -> None:
    """Take over the ANN of another run, and its conversion where all fields agree that matter to it.

    Stages that the run has done itself stay as they are, and a donor's conversion stays there where its ANN came out
    otherwise than the run's own; its folder is only read. ValueError where the other run has no trained ANN, one of
    another config, or a damaged checkpoint, or no stage is to be taken over.

    Args:
        run: that takes over.
        donor: the folder of the other one.
        taken_over: some of OFFERED.
    """
    if not taken_over:
        raise ValueError("there is nothing to take over for train_ann, which trains the ANN: leave from_run out.")
    there = on_first_process(lambda: _offered(run, donor))
    for stage in (stage for stage in taken_over if stage in there):
        done, folder = there[stage], donor / NETWORK_OF[stage]
        if is_done(run, stage):
            if not is_alike(measured(run, stage), done["results"]):
                say(f"{stage}: that of {donor} came out otherwise, so that nothing made of it is taken over")
                return
        elif not ends_at(folder, done["step"]):
            raise ValueError(f"the last checkpoint in {folder} is damaged or missing: run its stage again.")
        else:
            note_loss(run, stage)
            on_first_process(lambda stage=stage, done=done: _copy(run, donor, stage, done["results"]))
            made_by = dataclasses.replace(run.config, run=config_of(donor, done["config"]).run)
            finish(run._replace(config=made_by), stage, done["seconds"], done["results"])
            say(f"{stage}: taken over from {donor}")


def _offered(run: Run, donor: Path) -> dict[str, Results]:
    """Which stages a donor has done as the run would do them, and what they measured."""
    stages = read_stages(donor)
    if "train_ann" not in stages:
        raise ValueError(f"{donor} holds no trained ANN to take over: name the workdir of a run that does.")
    differing = {
        stage: difference(config_of(donor, stages[stage]["config"]), run.config, GROUP_OF[stage])
        for stage in OFFERED
        if stage in stages
    }
    if differing["train_ann"]:
        raise ValueError(f"the ANN of {donor} is not the one that is asked for: {differing['train_ann']}.")
    return {stage: stages[stage] for stage, what in differing.items() if what is None}


def _copy(run: Run, donor: Path, stage: str, results: Results) -> None:
    """Copy a stage's checkpoints and records; the folder gets its name when it is complete."""
    network = NETWORK_OF[stage]
    arriving = run.directory / ARRIVING
    remove_folder(arriving)
    remove_folder(checkpoints(run, network))
    shutil.copytree(donor / network, arriving)
    move_folder(arriving, checkpoints(run, network))
    if stage == "train_ann":
        rewrite(run.metrics.path, network, results[network]["history"])
