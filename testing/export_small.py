"""`python -m testing.export_small ARG...`: clip-export that also knows the models of testing/towers.

The text tower is exported and not served, because each of the tests' many servers would start it.
"""

from __future__ import annotations

import sys

from clip_export.arguments import parser
from clip_export.cli import main
from clip_serving.files import write_atomically
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families.image import IMAGE
from testing import towers

if __name__ == "__main__":
    towers.register()
    status = main()
    repository = parser().parse_args().repository
    if status == 0:
        image = Deployment.of(IMAGE, Deployment.load(repository).settings(IMAGE))
        write_atomically(repository / DEPLOYMENT_FILE, image.to_json())
    sys.exit(status)
