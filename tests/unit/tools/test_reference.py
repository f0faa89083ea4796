"""The reference pages that are generated from the code."""

from __future__ import annotations

from clip_serving.repository.families import FAMILIES
from clip_serving.repository.settings import Switch, table
from tools import reference


def test_the_settings_page_lists_every_setting_and_its_flags() -> None:
    sections = reference.settings().split("Keys in the section ")[1:]
    for family, section in zip(FAMILIES.values(), sections, strict=True):
        assert section.startswith(f"`{family.name}`")
        for line in table(family.settings):
            (row,) = [row for row in section.splitlines() if row.startswith(f"| `{line.key}`")]
            assert f"`--{family.flag_prefix}{line.flag}`" in row
            if isinstance(line.values, Switch):
                assert f"`--{family.flag_prefix}{line.values.off}`" in row
