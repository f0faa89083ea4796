"""The reference pages that are generated from the code."""

from __future__ import annotations

from clip_serving.repository.families.image.settings import ImageSettings
from clip_serving.repository.settings import Switch, table
from tools import reference


def test_the_settings_page_lists_every_setting_and_its_flags() -> None:
    rows = reference.settings().splitlines()
    for line in table(ImageSettings):
        (row,) = [row for row in rows if row.startswith(f"| `{line.key}`")]
        assert f"`--{line.flag}`" in row
        if isinstance(line.values, Switch):
            assert f"`--{line.values.off}`" in row
