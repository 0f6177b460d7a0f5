"""Values of a study that are each valid, and together mean a training that nobody asks for."""

import pytest
from changed_study import REFUSED_WELL, load_changed, set_at
from promises import refused

from imbdet.training.optimizer import rate_factor


def schedule(*milestones, warmup=0, factor=0.1):
    values = {"name": "multistep", "warmup_steps": warmup, "milestones": list(milestones), "factor": factor}
    return set_at(["train", "schedule"], values)


def together(*changes):
    def change(raw):
        for one in changes:
            one(raw)

    return change


RETINANET = ["detectors", "retinanet"]
RPN_OF = ["detectors", "faster_rcnn", "rpn"]
# Values that are each in their range, and together mean another training than the one that was asked for.
CONTRADICTIONS = {
    "warm-up as long as the training": (
        set_at(["train", "schedule", "warmup_steps"], 8),
        r"mine.yaml: train: schedule.warmup_steps is 8, but steps is 8: the training would never reach its learning",
    ),
    "warm-up longer than the training": (
        set_at(["train", "schedule", "warmup_steps"], 500),
        r"train: schedule.warmup_steps is 500, but steps is 8: .*; shorten the warm-up or train for longer$",
    ),
    "warm-up longer than a detector's own training": (
        set_at([*RETINANET, "train"], {"steps": 2}),
        r"detectors.retinanet.train, which replaces values of train: schedule.warmup_steps is 2, but steps is 2: ",
    ),
    "warm-up up to a milestone": (
        schedule(0.3, 0.5, warmup=3),
        r"train: schedule.warmup_steps is 3, but the first milestone is at step 3: ",
    ),
    "warm-up while the cosine falls": (
        set_at(["train", "schedule", "warmup_steps"], 5),
        r"train: schedule.warmup_steps is 5, more than half of 8 steps: the cosine falls meanwhile",
    ),
    "a milestone at the start": (
        schedule(0, 0.5),
        r"train.schedule.milestones.0 is 0: .*greater than 0$",
    ),
    "a milestone at the end": (schedule(0.5, 1.0), r"train.schedule.milestones.1 is 1.0: .*less than 1$"),
    "milestones that fall": (schedule(0.9, 0.5), r"train.schedule: milestones are .*; got \[0.9, 0.5\]$"),
    "a milestone twice": (schedule(0.5, 0.5), r"train.schedule: milestones are .*; got \[0.5, 0.5\]$"),
    "a rate that rises": (schedule(0.5, factor=10), r"schedule.*factor is 10: .*less than or equal to 1"),
    "momentum that never fades": (
        set_at(["train", "optimizer", "momentum"], 1),
        r"optimizer.*momentum is 1: .*less than 1",
    ),
    "evaluated after the end": (
        set_at(["train", "evaluate_every"], 9),
        r"train: evaluate_every is 9, but steps is 8: never evaluated$",
    ),
    "sides the wrong way round": (
        together(set_at([*RETINANET, "short_side"], 1333), set_at([*RETINANET, "long_side"], 800)),
        r"short_side is 1333, longer than long_side, 800$",
    ),
    "thresholds the wrong way round": (
        set_at([*RETINANET, "assigner"], {"foreground_iou": 0.4, "background_iou": 0.5, "low_quality": "off"}),
        r"detectors.retinanet.assigner: background_iou is 0.5, above foreground_iou 0.4; a prior between",
    ),
    "everything is foreground": (
        set_at([*RETINANET, "assigner"], {"foreground_iou": 0, "background_iou": 0, "low_quality": "off"}),
        r"assigner.foreground_iou is 0: .*greater than 0",
    ),
    "anchors coarsest first": (
        set_at([*RETINANET, "anchors", "sizes"], [[128], [64], [32], [16], [8]]),
        r"retinanet.anchors: sizes are those of each level, finest first; .* are 128, 64, 32, 16, 8$",
    ),
    "no foreground": (set_at([*RPN_OF, "foreground_share"], 0), r"rpn: foreground_share is 0.0 of 32 sampled, "),
    "less than one of foreground": (
        set_at(["detectors", "faster_rcnn", "roi", "sampled"], 3),
        r"roi: foreground_share is 0.25 of 3 sampled, which is less than one",
    ),
    "a score that none exceeds": (set_at(["evaluate", "score_threshold"], 1), r"score_threshold is 1: .*less than 1"),
    "counts below what is kept": (
        set_at(["evaluate", "score_threshold"], 0.5),
        r"evaluate: operating_score is 0.3, but no detection below score_threshold, 0.5, is kept",
    ),
    "jitter of no width": (set_at(["data", "jittered_boxes"], 0.5), r"jittered_boxes is 0.5, but jitter is 0: "),
    "wrong labels of one class": (
        together(set_at(["data", "wrong_labels"], 0.1), set_at(["data", "classes"], 1)),
        r"wrong_labels is 0.1, but with one class no label can be wrong$",
    ),
    "true as a number": (set_at(["train", "clip_norm"], True), r"train: clip_norm is true: expected a number"),
    "true among numbers": (set_at(["seeds"], [True]), r"mine.yaml: seeds is \[true\]: expected a number"),
}


@REFUSED_WELL
@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(tmp_path, change, message):
    with refused(message):
        load_changed(tmp_path, change)


@pytest.mark.parametrize("change", [set_at(["train", "schedule", "warmup_steps"], 4), schedule(0.3, 0.875, warmup=2)])
def test_a_schedule_of_which_every_part_comes_is_taken(tmp_path, change):
    """The whole rate for a single step and a milestone at the last, or half of the rate at the top of a cosine."""
    train = load_changed(tmp_path, change).train
    rates = {round(rate_factor(step, train.steps, train.schedule), 9) for step in range(train.steps)}
    assert max(rates) >= 0.5 if train.schedule.name == "cosine" else {1.0, 0.1, 0.01} <= rates
