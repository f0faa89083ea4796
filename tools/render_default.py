"""`make configs`: renders the committed model_repository from tools/default_spec.json and the defaults."""

from __future__ import annotations

from pathlib import Path

from clip_serving.repository.deployment import Deployment
from clip_serving.repository.families.image import IMAGE
from clip_serving.repository.render import write_repository
from clip_serving.repository.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "tools" / "default_spec.json"
REPOSITORY = ROOT / "model_repository"


def main() -> None:
    write_repository(REPOSITORY, Deployment.of(IMAGE), {IMAGE.name: ModelSpec.load(SPEC)})
    print(f"rendered {REPOSITORY}")


if __name__ == "__main__":
    main()
