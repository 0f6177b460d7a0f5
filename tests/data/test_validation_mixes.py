"""Any mix of defects: what is prepared is the data set without them, and the report counts what was put in."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from defects import MAKERS, OF_ANNOTATIONS, OF_IMAGES, Dataset, choices, layout, policy
from hypothesis import given, settings
from hypothesis import strategies as st

from imbdet.data.coco import as_text, read_annotations
from imbdet.data.report import DEFECTS
from imbdet.data.validate import validate

LAYOUT = layout()
IMAGES = 6
# For each image one defect of the image or none, and some of its annotations; an empty image has none of those.
mixes = st.lists(
    st.tuples(
        st.none() | st.sampled_from(sorted(set(OF_IMAGES) - {"empty_images"})),
        st.sets(st.sampled_from([*OF_ANNOTATIONS])),
    )
    | st.just(("empty_images", set())),
    min_size=IMAGES - 1,
    max_size=IMAGES - 1,
)  # the last image has no defect, so that something is left


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory):
    """A folder for all examples, each of which removes what it finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mixes"))
        yield


def inject(mix):
    """A data set with a mix of defects; how many of each; what is left of it without them."""
    data, counts, spoilt = Dataset(IMAGES), Counter(), set()
    for record, (of_image, _) in zip(data.content["images"], mix, strict=False):
        if of_image:
            MAKERS[of_image](data, record)
            counts[of_image] += 2 if of_image == "duplicate_image_ids" else 1
            spoilt.add(record["id"])
    clean = data.without(spoilt)
    for record, (_, of_annotations) in zip(data.content["images"], mix, strict=False):
        for name in sorted(of_annotations):
            MAKERS[name](data, record)
            counts[name] += 1
    shutil.rmtree("data", ignore_errors=True)
    data.write(LAYOUT)
    Dataset(1).write(LAYOUT, "val")
    return data, counts, clean


def counted(report):
    return Counter({name: d["count"] for name, d in report["splits"]["train"]["defects"].items() if d["count"]})


@pytest.mark.promise("Any mix of defects is dropped without touching what has none", "bad input")
@settings(max_examples=40, deadline=None)
@given(mixes)
def test_a_mix_is_left_out(mix):
    _, counts, clean = inject(mix)
    report, _ = validate(LAYOUT, policy("drop"))
    assert LAYOUT.annotations("train").read_text() == as_text(clean)
    assert counted(report) == counts
    kept = report["splits"]["train"]
    assert (kept["images_kept"], kept["annotations_kept"]) == (len(clean["images"]), len(clean["annotations"]))


chosen = st.fixed_dictionaries({name: st.sampled_from([c for c in choices(name) if c != "error"]) for name in DEFECTS})


@settings(max_examples=40, deadline=None)
@given(mixes, chosen)
def test_the_counts_are_those_put_in_under_every_policy(mix, policies):
    """Whether an image is empty depends on what is dropped, so that only those made empty are compared."""
    _, counts, _ = inject(mix)
    report, _ = validate(LAYOUT, policy(**policies))
    assert counted(report) == counts
    assert {name: d["policy"] for name, d in report["splits"]["val"]["defects"].items()} == policies
    read_annotations(LAYOUT.annotations("train"))


@settings(max_examples=20, deadline=None)
@given(mixes)
def test_what_was_prepared_is_good(mix):
    """Validated again with no defect allowed, nothing is found."""
    data, _, _ = inject(mix)
    validate(LAYOUT, policy("drop"))
    files = {name: Path("data/train", name) for name in data.files}
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    again = Dataset()
    again.content = json.loads(LAYOUT.annotations("train").read_text())
    again.files = {}
    again.write(LAYOUT)
    Dataset(1).write(LAYOUT, "val")
    assert not counted(validate(LAYOUT, policy("error", category_gaps="ignore"))[0])
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == before
