"""LVIS's keys, which say for which categories an image is labelled: by the rules of LVIS an evaluation needs them."""

from typing import Any

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # of an image
GROUPS = {"rare": "r", "common": "c", "frequent": "f"}  # of a category, by its ``frequency``


def lacking(content: dict[str, Any]) -> str | None:
    """Say which of LVIS's keys the content of an annotation file lacks, as a clause; None where all are there."""
    for category in content["categories"]:
        frequency = category.get("frequency")
        if frequency not in GROUPS.values():
            return f"category {category['id']} has frequency {frequency!r}; LVIS has {', '.join(GROUPS.values())}"
    for key in LISTS:
        for image in content["images"]:
            ids = image.get(key)
            if not isinstance(ids, list) or any(type(i) is not int for i in ids):
                return f"image {image['id']} has {key} {ids!r}; LVIS has a list of category ids there"
    return None


def unlisted(content: dict[str, Any]) -> str | None:
    """Name a category of LVIS's lists that an annotation file, which lacks nothing, does not have; None without any."""
    known = {category["id"] for category in content["categories"]}
    for key in LISTS:
        for image in content["images"]:
            for category in set(image[key]) - known:
                return f"image {image['id']} names category {category} in {key}, which the file does not list"
    return None
