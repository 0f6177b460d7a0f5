"""The files that a project's visitors and services read: licence, citation, contributing, hosted CI."""

import re
import tomllib

import yaml
from pages import DOCS, ROOT


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = project()
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == package["version"]
    assert citation["license"] == package["license"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in package["authors"]]
    assert not {"doi", "url", "repository-code"} & set(citation), "none has been assigned"


def test_licence_is_the_one_that_the_package_names():
    text = (ROOT / "LICENSE").read_text()
    assert project()["license"] == "Apache-2.0"
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text


def test_hosted_ci_calls_the_local_one_on_the_oldest_python():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    job = yaml.safe_load(text)["jobs"]["check"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    oldest = project()["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]


def test_contributing_names_targets_and_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)`", text))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    paths = {
        p for p in re.findall(r"`((?:src|docs|tests|config)/[^`]+)`", text) if "NAME" not in p and "STUDY" not in p
    }
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_pages_link_to_files_that_exist():
    for page in (*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:docs|tests|src|config)/[\w/.-]+\.\w+)`", text) + re.findall(
            r"\]\((?!http)([^)#]+)\)", text
        )
        for name in named:
            assert (ROOT / name).exists() or (page.parent / name).exists() or "NAME" in name or "STUDY" in name, (
                f"{page}: {name}"
            )
