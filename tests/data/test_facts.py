"""What detectors and methods learn about a data set, from its manifest alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prepared import coco_format, run

from imbdet.config import Study
from imbdet.data.coco import read_annotations
from imbdet.data.facts import read_facts
from imbdet.errors import UserError
from imbdet.layout import Layout

MakeStudy = Callable[..., Study]


@pytest.mark.parametrize("generated", [True, False])
def test_the_frequency_of_a_label_is_the_share_of_training_images_with_it(
    make_study: MakeStudy, coco_folder: Path, generated: bool
) -> None:
    study = make_study(None if generated else coco_format(coco_folder))
    run(study)
    split = read_annotations(Layout.of(study).annotations("train"))
    shutil.rmtree("data")  # the manifest is enough
    facts = read_facts(Layout.of(study))
    of_image = [set(split.objects.labels[split.objects.rows(i)].tolist()) for i in range(len(split.image_ids))]
    assert facts.num_classes == len(split.categories) == len(facts.frequency)
    for label, frequency in enumerate(facts.frequency):
        assert frequency == sum(label in labels for labels in of_image) / len(of_image)
    assert len(set(facts.frequency)) > 1 or not generated


def test_labels_are_in_the_order_of_the_category_ids_and_not_of_the_file(
    make_study: MakeStudy, coco_folder: Path
) -> None:
    """The file lists category 7, which is in one of three images, before category 3, here in two."""
    file = coco_folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    assert [category["id"] for category in content["categories"]] == [7, 3]
    more = {"id": 9, "image_id": 8, "category_id": 3, "bbox": [1, 1, 5, 5], "iscrowd": 0}
    file.write_text(json.dumps(content | {"annotations": [*content["annotations"], more]}))
    study = make_study(coco_format(coco_folder))
    run(study)
    assert read_facts(Layout.of(study)).frequency == (2 / 3, 1 / 3)


def test_a_manifest_that_is_missing_is_named_with_the_command_that_makes_it(make_study: MakeStudy) -> None:
    with pytest.raises(UserError, match=r"^results/test/data.json does not exist; `python -m imbdet data`"):
        read_facts(Layout.of(make_study()))
