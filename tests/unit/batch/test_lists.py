"""What a plan lists: lists of names and URIs in each format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_batch import BatchError, LocalStorage, compact, defaults, make_plan, open_listing, verify
from clip_batch.manifest import PlannedObject
from clip_client import ObjectInfo
from clip_client.sources.base import crc32c
from tests.unit.batch.jobs import BAD, folder_of, newest, plan, rows, run

URIS = "gs://albums/2024/a.jpg\ngs://other/b c.jpg\n"
WANTED = [
    PlannedObject("gs://albums", "gs://albums", ObjectInfo("2024/a.jpg", 0)),
    PlannedObject("gs://other", "gs://other", ObjectInfo("b c.jpg", 0)),
]


def listed(path: Path | str, **options: Any) -> list[PlannedObject]:
    return list(open_listing(str(path), **options).objects())


def test_lines_from_a_file_and_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"\ufeff{URIS.replace('gs:', ' gs:')} \t\r\n\n")
    assert listed(path) == WANTED, "without the byte order mark and the blanks around a line"
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert listed("-") == WANTED


def test_a_login_is_in_no_plan() -> None:
    listing = open_listing("https://user:secret@photos.example/a.jpg?sig=secret")
    assert listing.text == "https://photos.example/a.jpg?..."
    assert listing.source == "https://photos.example"


def test_csv_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('\ufeffURI, Size,generation\ngs://albums/2024/a.jpg,7,123\n"gs://other/b c.jpg",,\n')
    first, second = listed(path)
    assert first.info == ObjectInfo("2024/a.jpg", 7, 123)
    assert second == WANTED[1]


def test_an_inventory_report(tmp_path: Path) -> None:
    columns = {
        "project": ["1"],
        "bucket": ["albums"],
        "name": ["2024/a.jpg"],
        "size": [7],
        "generation": [123],
        "crc32c": ["AAAAAA=="],
        "contentEncoding": [""],
        "timeCreated": ["2024-01-01"],
    }
    pq.write_table(pa.table(columns), tmp_path / "report.parquet")
    info = ObjectInfo("2024/a.jpg", 7, 123, "AAAAAA==")
    assert listed(tmp_path / "report.parquet") == [PlannedObject("gs://albums", "gs://albums", info)]
    pq.write_table(
        pa.table({name.upper(): column for name, column in columns.items()}), tmp_path / "up.parquet"
    )
    assert listed(tmp_path / "up.parquet") == [PlannedObject("gs://albums", "gs://albums", info)]


def test_names_within_a_base(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {"a.jpg": b"1", "b/c.jpg": b"2"})
    (tmp_path / "list.txt").write_text(f"a.jpg\n{photos}/b/c.jpg\n./b//c.jpg\n")
    found = listed(tmp_path / "list.txt", base=str(photos))
    assert [(each.source, each.info.name) for each in found] == [
        (str(photos), "a.jpg"),
        (str(photos), "b/c.jpg"),
        (str(photos), "b/c.jpg"),
    ], "as a listing of the folder names them"


@pytest.mark.parametrize("base", ["gs://albums/2024", "gs://albums/2024/"])
def test_names_within_a_prefix_of_a_bucket(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    (tmp_path / "list.txt").write_text("a.jpg\ngs://other/b c.jpg\n")
    assert listed(tmp_path / "list.txt", base=base) == WANTED


def test_paths_from_the_current_folder_are_not_names_within_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `find photos` prints them."""
    folder_of(tmp_path, {"photos/a.jpg": b"1", "images/images/a.jpg": b"2"})
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("photos/a.jpg\n")
    with pytest.raises(BatchError, match=r"row 1 of list.txt.*relative to --base photos.*Give --base \.$"):
        listed("list.txt", base="photos/")
    (found,) = listed("list.txt", base=".")
    assert (found.source, found.info.name) == (str(tmp_path), "photos/a.jpg")
    Path("list.txt").write_text("images/a.jpg\n")
    (found,) = listed("list.txt", base="images")
    assert (found.source, found.info.name) == (str(tmp_path / "images"), "images/a.jpg")


def test_a_name_that_no_file_can_have_fails_alone(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {"a.jpg": b"1", "b.jpg": b"2", " c\n'\"<b>\x1b.jpg": b"3"})
    names = [
        "a.jpg",
        "\0.jpg",
        "x" * 100_000,
        "none\n.jpg",
        "\x1b[31m.jpg",
        "\U0001f600.jpg",
        " c\n'\"<b>\x1b.jpg",
    ]
    pq.write_table(pa.table({"name": names}), tmp_path / "list.parquet")
    storage = LocalStorage(tmp_path / "out")
    listing = open_listing(str(tmp_path / "list.parquet"), base=str(photos))
    make_plan(storage, [listing])
    run(storage)
    found = {row["name"]: row.get("error_code") for row in rows(storage)}
    assert len(rows(storage)) == len(names)
    assert found.pop("x" * 100_000) == "load_failed"
    assert {name for name, code in found.items() if code is None} == {names[0], names[-1]}
    assert {code for code in found.values() if code} == {"not_found"}
    assert verify(storage).ok


def test_a_listed_checksum_is_checked(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {"a.jpg": b"1", "b.jpg": b"2"})
    (tmp_path / "list.csv").write_text(f"name,crc32c\na.jpg,{crc32c(b'1')}\nb.jpg,{crc32c(b'1')}\n")
    storage = LocalStorage(tmp_path / "out")
    make_plan(storage, [open_listing(str(tmp_path / "list.csv"), base=str(photos))])
    run(storage)
    assert {row["name"]: row.get("error_code") for row in rows(storage)} == {
        "a.jpg": None,
        "b.jpg": "checksum_mismatch",
    }


def test_one_source_name_for_two_places_would_confuse_their_objects(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(URIS)
    with pytest.raises(BatchError, match=r"row 2 .*gs://albums and gs://other"):
        listed(tmp_path / "list.txt", source_name="mine")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg"]}, "names no objects. Its columns: 'path'. Give it a header with a column uri"),
        ({"name": ["a.jpg"], "Name": ["b.jpg"]}, "has the column name twice"),
        ({"name": [1]}, "row 1 .*name must be text, not 1"),
        ({"name": [b"a.jpg"]}, "row 1 .*name must be text, not b'a.jpg'"),
        ({"name": ["a.jpg", None]}, "row 2 .*name must not be empty"),
        ({"name": ["a.jpg"], "crc32c": [7]}, "row 1 .*crc32c must be text, not 7"),
        ({"name": ["a.jpg"], "size": [float("inf")]}, "row 1 .*size must be a whole number"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(BatchError, match=message):
        listed(tmp_path / "list.parquet", base=str(tmp_path))


def test_a_list_names_an_object_once_and_leaves_the_others_alone(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {f"{number}.jpg": b"%d" % number for number in range(5)})
    storage = LocalStorage(tmp_path / "out")
    plan(storage, photos)
    run(storage)
    folder_of(photos, {"5.jpg": b"5"})
    (tmp_path / "list.csv").write_text(f"source,name\n{photos},5.jpg\n{photos},0.jpg\n{photos},5.jpg\n")
    planned = plan(storage, tmp_path / "list.csv")
    assert (planned.objects, planned.skipped, planned.repeated, planned.gone) == (1, 1, 1, 0)
    run(storage)
    assert len(newest(storage)) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "a.jpg\n", r"row 1 of .*a.jpg is not a URI.*--base"),
        ("list.txt", "gs://bucket\n", "names no object in a bucket"),
        ("list.csv", "file\nx\n", "list.csv names no objects.*Give it a header with a column uri"),
        ("list.csv", "Bucket,file\na,b\n", "Its columns: 'Bucket', 'file'"),
        ("list.csv", "", "Its columns: none"),
        ("list.csv", "uri,URI\ngs://a/b,gs://a/b\n", "the column uri twice"),
        ("list.csv", 'uri\n"gs://a/b\ngs://a/c\n', "row after line 1: unexpected end of data. Is a quote"),
        ("list.csv", 'uri\n"' + "gs://a/b\n" * 20_000, "row after line 1: field larger.*Is a quote"),
        ("list.csv", "uri,crc32c\ngs://a/b,0badcafe\n", "row 1 .*crc32c must be four bytes in base64"),
        ("list.csv", "source,name\n/no/such/folder,b\n", "row 1 .*/no/such/folder does not exist"),
        ("list.csv", "uri\ngs://a/b,c.jpg\n", "line 2 has more cells than the header.*in quotes"),
        ("list.csv", "uri,size\ngs://a/b,many\n", "row 1 .*size must be a whole number.*'many'"),
        ("list.csv", "uri,size\ngs://a/b,-5\n", "row 1 .*size must be a whole number.*'-5'"),
        ("list.csv", f"uri,generation\ngs://a/b,{2**63}\n", "row 1 .*generation must be a whole number"),
        ("list.txt", "gs://a/b\nftp://a/b\n", "row 2 .*ftp:// is not supported. Use one of gs://"),
        ("list.txt", "https://user:secret@a/b\n", "row 1 .*an address must not have a login"),
        ("list.parquet", "no Parquet", "cannot read"),
        ("list.txt", b"\xff\xfe\x00", "cannot read .*is not UTF-8 text"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BatchError, match=message):
        listed(path)


def test_a_bad_row_leaves_nothing_of_its_plan(tmp_path: Path) -> None:
    """Manifests are written part by part: the row comes after the first."""
    size = 20
    lines = [f"gs://albums/{number}.jpg" for number in range(size * defaults.PARTITIONS_PER_PART)]
    (tmp_path / "list.txt").write_text("\n".join([*lines, "no-uri"]))
    storage = LocalStorage(tmp_path / "out")
    with pytest.raises(BatchError, match=f"row {len(lines) + 1} "):
        plan(storage, tmp_path / "list.txt", size=size)
    assert list(storage.list("")) == []


def test_a_list_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"cannot read .*No such file"):
        listed(tmp_path / "none.txt")


def test_outputs_of_other_jobs_are_not_planned(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {"a.jpg": b"a", "embeddings/1.jpg": b"b", "bad.jpg": BAD})
    other = LocalStorage(photos / "other")
    plan(other, photos)
    run(other)
    compact(other)
    plan(other, folder_of(photos, {"c.jpg": BAD}))
    run(other)
    files = len(list(other.list("")))
    assert files > 6, "two plans, a model, a compaction, embeddings and errors"
    planned = plan(LocalStorage(tmp_path / "out"), photos)
    assert (planned.objects, planned.outputs) == (4, files)


def test_an_output_behind_a_link_is_left_out_of_its_source(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", {"a.jpg": b"a", "out/embeddings/1.parquet": b"rows"})
    (tmp_path / "link").symlink_to(photos / "out")
    (found,) = listed(photos, out=str(tmp_path / "link"))
    assert found.info.name == "a.jpg"
