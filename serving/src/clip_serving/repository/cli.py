"""`clip-render`: renders a repository's configs from its deployment.json. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clip_serving.errors import ClipServingError
from clip_serving.repository.deployment import DEPLOYMENT_FILE, Deployment
from clip_serving.repository.families import FAMILIES, families
from clip_serving.repository.flags import add_flags, add_name, given
from clip_serving.repository.render import outdated_configs, render_repository
from clip_serving.terminal import Parser, printable

_DESCRIPTION = """\
Renders every config.pbtxt of a model repository from its deployment.json, which you can edit, and the
exported model's spec.json. Flags change deployment.json first. All files change or none, and a running
server uses them after a restart.
"""
_EPILOG = """\
examples:
  clip-render --repository model_repository                       (after you edited deployment.json)
  clip-render --repository model_repository --max-batch-size 32 --quality exact
  clip-render --repository model_repository --activate 1          (back to an earlier export)
  clip-render --repository model_repository --name large --encoder-instances 2

exit status: 0 rendered, 1 --check found outdated configs, 2 an error; nothing was changed.
"""


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.check and any(given(options, family) for family in FAMILIES.values()):
        parser.error("--check changes nothing, so it cannot be combined with settings")
    try:
        return _check(options.repository) if options.check else _render(options)
    except ClipServingError as error:
        _say(f"error: {error}")
    except OSError as error:
        _say(f"error: cannot write {error.filename or options.repository}: {error.strerror}. "
             "Nothing was changed")  # fmt: skip
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "clip-render",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="default: %(default)s")  # fmt: skip
    add_name(parser, "the settings are those of the models that clip-export --name NAME made")
    add("--check", action="store_true",
        help="change nothing; list the configs that differ from deployment.json")  # fmt: skip
    for family in FAMILIES.values():
        add_flags(
            parser.add_argument_group(
                f"settings of the {family.name} models",
                f"written to {DEPLOYMENT_FILE}; a flag that you omit leaves its value unchanged",
            ),
            family,
        )
    return parser


def _check(repository: Path) -> int:
    paths = outdated_configs(repository)
    for path in paths:
        print(printable(str(path)))
    if paths:
        _say(
            f"these configs differ from {DEPLOYMENT_FILE}; render them: clip-render --repository {repository}"
        )
    return 1 if paths else 0


def _render(options: argparse.Namespace) -> int:
    def change(deployment: Deployment) -> Deployment:
        for family in families(options.name):
            if changes := given(options, family):
                deployment.settings(family)  # a family that this repository does not serve is an error
                deployment = deployment.replaced(family, **changes)
        return deployment

    _, changed = render_repository(options.repository, change)
    for path in changed:
        print(printable(str(path)))
    restart = "Restart the server to use " + ("it" if len(changed) == 1 else "them")
    files = f"{len(changed)} file" + "s" * (len(changed) != 1)
    _say(f"{options.repository}: " + (f"{files} changed. {restart}" if changed else "nothing changed"))
    return 0


def _say(text: str) -> None:
    print(f"clip-render: {printable(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
