"""`clip-search label`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from clip_client import ClipClient
from clip_client.arguments import connection_of, count
from clip_client.sinks.base import describe_model
from clip_search import defaults, labels
from clip_search.commands.common import add_dataset, add_server, check_output, say
from clip_search.dataset import read_dataset
from clip_search.errors import SearchError
from clip_search.query import check_same_model
from clip_search.terminal import table


def add_label(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_label)
    parser.description = (
        "Writes a Parquet file with the best labels of each photo, and prints for how many photos each label "
        "is the best. The model needs a text tower."
    )
    add_dataset(parser)
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either("--labels", type=Path, metavar="FILE", help="the labels, one on each line")
    either("--prompts", type=Path, metavar="FILE",
        help="labels that are whole prompts, such as 'two people at sunset', one on each line")  # fmt: skip
    add("--templates", type=Path, metavar="FILE", help="prompts for --labels, one on each line, with {} for "
        "the label (default: a few, such as 'a photo of a {}.')")  # fmt: skip
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the Parquet file to write; replaced if it exists",
    )
    add("--json", action="store_true", help="print the number of photos of each best label as JSON")
    add("--count", type=count, default=defaults.LABELS, metavar="N",
        help="labels stored for each photo (default: %(default)s)")  # fmt: skip
    add_server(parser)


def _label(options: argparse.Namespace) -> int:
    check_output(options.out, options.dataset)
    names, templates = _prompts(options)
    dataset = read_dataset(options.dataset)
    with ClipClient(options.url, model=options.model, connection=connection_of(options)) as client:
        check_same_model(dataset, describe_model(client.info))
        parameters = client.text_info.parameters
        vectors = labels.label_vectors(client.embed_text, names, templates)
    scale, bias = parameters.get("logit_scale"), parameters.get("logit_bias")
    if not scale:
        raise SearchError("the server does not report the model's logit scale. Export the model again")
    found = labels.assign(
        dataset.vectors, vectors, options.count, float(scale), float(bias) if bias else None
    )
    labels.write_labels(options.out, dataset, names, found)
    counts = Counter(names[index] for index in found.labels[:, 0])
    if options.json:
        print(json.dumps(dict(counts.most_common()), indent=2))
    else:
        print(table(["photos", "label"], [[str(count), name] for name, count in counts.most_common()]))
    say(f"wrote {options.out}: {len(dataset)} rows")
    return 0


def _prompts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The labels, and the templates of their prompts."""
    if options.prompts:
        if options.templates:
            raise SearchError("--templates is for --labels: lines of --prompts are used as they are")
        return labels.read_lines(options.prompts, "prompts"), ["{}"]
    given = options.templates
    templates = labels.read_lines(given, "templates") if given else list(defaults.TEMPLATES)
    return labels.read_lines(options.labels, "labels"), templates
