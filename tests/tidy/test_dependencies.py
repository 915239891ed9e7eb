"""What is installed, and the record of why."""

import re
import tomllib

from tests.tidy.source import ROOT

RECORD = ROOT / "docs" / "adr" / "0005-dependencies.md"


def declared() -> set[tuple[str, str]]:
    """Return extra and package of each dependency; the extra of what everybody needs is empty."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"]} | project["optional-dependencies"]
    return {
        (extra, re.match(r"[\w.-]+(\[[\w,-]+\])?", text).group())
        for extra, texts in extras.items()
        for text in texts
        if not text.startswith(f"{project['name']}[")
    }


def recorded() -> list[tuple[str, str]]:
    """Return extra and package of each row of the record's tables."""
    found = []
    for line in RECORD.read_text().splitlines():
        if line.startswith("| `"):
            *extras, packages, _ = line.strip("| ").split(" | ")
            (extra,) = extras or [""]
            found += [(extra.strip("`"), name) for name in re.findall(r"`([^`]+)`", packages)]
    return found


def test_every_dependency_is_in_the_record_and_nothing_else_is():
    assert set(recorded()) == declared()
    assert len(recorded()) == len(declared())
