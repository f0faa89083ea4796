"""Odd JPEG files, each beside what must become of it. All are made by changing files that Pillow wrote."""

from __future__ import annotations

import re
from itertools import pairwise

from PIL import Image

from testing.odd_files import Odd
from testing.pictures import encoded, jpeg_with_sides, oriented, source_picture

END = b"\xff\xd9"
JUNK = bytes.fromhex("123456789A1011")
_TEXT = b"ABCDEFGHIJKLMNOPQRSTU"


def segment(marker: int, body: bytes) -> bytes:
    """A segment with its length."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def header_places(data: bytes) -> list[int]:
    """Where the segments up to the first scan begin."""
    places = [2]
    while data[places[-1] + 1] != 0xDA:
        at = places[-1]
        places.append(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
    return places


def scan_places(data: bytes) -> list[int]:
    """Where the scans' segments begin."""
    return [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]


def _sources() -> dict[str, bytes]:
    cat, cup = source_picture("chelsea.png"), source_picture("coffee.png").resize((400, 300))
    return {
        "baseline": encoded(cat, "JPEG"),
        "progressive": encoded(cup, "JPEG", progressive=True),
        "restarts": encoded(cup, "JPEG", restart_marker_rows=1, subsampling=0),
        "grey": encoded(cat.convert("L"), "JPEG"),
        "cmyk": encoded(cat.convert("CMYK"), "JPEG"),
        "large": encoded(source_picture("coffee.png").resize((900, 600)), "JPEG", subsampling="4:2:2"),
    }


def odd_jpegs() -> dict[str, Odd]:
    """Name -> file whose every pixel is there, and whose defect is elsewhere."""
    files = {}
    for name, data in _sources().items():
        for kind, odd in (_stray(data) | _ends(data)).items():
            files[f"{name}_{kind}"] = odd
    baseline = _sources()["baseline"]
    seven = {"jpeg_7_bytes_before_end": Odd(baseline[:-2] + JUNK + END, baseline, "stray_bytes")}
    flat = _flat(0x11)
    for sampling in (0x12, 0x21, 0x22, 0x31, 0x13, 0x41, 0x14, 0x42, 0x24):
        files[f"jpeg_sampling_{sampling:02x}"] = Odd(_flat(sampling), flat, "single_color")
    return files | seven | _films() | _metadata(baseline) | _starts(baseline) | _xmp()


def _flat(sampling: int) -> bytes:
    """A gray picture of 48 x 40 whose luma has this sampling; Pillow cannot write all of them."""
    data = encoded(Image.new("RGB", (48, 40), (128, 128, 128)), "JPEG", subsampling=0)
    frame, scan = data.index(b"\xff\xc0"), header_places(data)[-1]
    across, down = divmod(sampling, 16)
    # The standard tables: no change of DC and the end of the block, for luma and for chroma.
    unit = "001010" * (across * down) + "0000" * 2
    bits = unit * (-(-48 // (8 * across)) * -(-40 // (8 * down)))
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = data[: frame + 11] + bytes([sampling]) + data[frame + 12 : scan + 14]
    return header + coded + END


def _stray(data: bytes) -> dict[str, Odd]:
    places = header_places(data)
    table = data.index(b"\xff\xdb")
    files = {f"{count}_bytes_before_tables": data[:2] + JUNK * 3 + data[table:] for count in (21,)}
    for count in (1, 2, 5, 16):
        files[f"{count}_bytes_after_start"] = data[:2] + (JUNK * 3)[:count] + data[2:]
    files |= {
        "between_all_segments": _insert(data, places, b"\x12\x34"),
        "ff00_between_segments": _insert(data, places[1:], b"\xff\0"),
        "ff00_and_text": _insert(data, places[1:], b"\xff\0abc\xff\0"),
        "restart_in_header": _insert(data, places[1:2], b"\xff\xd0x"),
        "reserved_marker_in_header": _insert(data, places[1:2], b"\xff\x47\xff\xf3"),
        "kilobytes_before_scan": _insert(data, places[-1:], bytes(range(255)) * 40),
        "fill_and_junk": _insert(data, places[1:], b"\xff\xff\xff\x01\x02\xff"),
    }
    for name, junk in (
        ("16", b"0123456789abcdef"),
        ("700", JUNK * 100),
        ("ff00", b"a\xff\0b" * 5),
    ):
        files[f"{name}_bytes_before_end"] = _insert(data, _ends_of_scans(data)[-1:], junk)
    files["bytes_behind_all_scans"] = _insert(data, _ends_of_scans(data), JUNK * 2)
    return {name: Odd(odd, data, "stray_bytes") for name, odd in files.items()}


def _films() -> dict[str, Odd]:
    """Frames of Motion JPEG, which lack Huffman tables, with bytes before their end."""
    files = {}
    for width in (200, 208, 216, 220, 224, 228, 232, 240):
        data = encoded(source_picture("chelsea.png").resize((width, 200)), "JPEG")
        tables = [(at, end) for at, end in pairwise(header_places(data)) if data[at + 1] == 0xC4]
        frame = data
        for at, end in reversed(tables):
            frame = frame[:at] + frame[end:]
        files[f"jpeg_film_of_width_{width}"] = Odd(frame[:-2] + JUNK + END, data, "stray_bytes")
    return files


def _insert(data: bytes, places: list[int], junk: bytes) -> bytes:
    for at in reversed(places):
        data = data[:at] + junk + data[at:]
    return data


def _ends(data: bytes) -> dict[str, Odd]:
    cut = data[:-2]
    return {
        "without_end": Odd(cut, data, "missing_end"),
        "half_of_the_end": Odd(cut + b"\xff", data, "missing_end"),
        "zeros_before_end": Odd(cut + bytes(500) + END, data, "stray_bytes"),
        "fill_before_end": Odd(cut + b"\xff" * 30 + END, data),
        "bytes_after_end": Odd(data + b"trailing \xff\xd8\xff" * 50, data),
        "another_file_for_the_end": Odd(cut + data, data, "missing_end"),
        "height_behind_the_scan": Odd(_with_late_height(data), data),
    }


def _with_late_height(data: bytes) -> bytes:
    """The height in a DNL segment behind the first scan, and 0 in the frame."""
    frame = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    height = data[frame + 5 : frame + 7]
    data = data[: frame + 5] + b"\0\0" + data[frame + 7 :]
    at = _ends_of_scans(data)[0]
    return data[:at] + segment(0xDC, height) + data[at:]


def _ends_of_scans(data: bytes) -> list[int]:
    """Where the entropy-coded data ends."""
    ends = []
    for scan in scan_places(data):
        found = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search(data, scan + 2)
        assert found is not None
        ends.append(found.start())
    return ends


def _metadata(data: bytes) -> dict[str, Odd]:
    scan = scan_places(data)[0]
    coding = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big") - 3
    after = header_places(data)[1]
    broken = {
        "icc_out_of_order": segment(0xE2, b"ICC_PROFILE\0\5\2" + bytes(20)),
        "icc_one_of_two": segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(20)),
        "icc_too_short": segment(0xE2, b"ICC_PROFILE\0"),
        "adobe_too_short": segment(0xEE, b"Adobe\0"),
        "adobe_unknown_transform": segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
        "exif_that_is_none": segment(0xE1, b"Exif\0\0nothing of the kind"),
        "exif_beyond_its_end": segment(0xE1, b"Exif\0\0MM\0*\0\xff\xff\xff"),
    }
    files = {f"jpeg_{name}": data[:after] + part + data[after:] for name, part in broken.items()}
    files |= {
        "jpeg_jfif_of_version_3": data.replace(b"JFIF\0\1", b"JFIF\0\3"),
        "jpeg_jfif_too_short": data[:2] + segment(0xE0, b"JFIF\0\1") + data[after:],
        "jpeg_scan_of_no_coefficients": data[:coding] + b"\0\0\0" + data[coding + 3 :],
    }
    return {name: Odd(odd, data, "damaged_metadata") for name, odd in files.items()}


def _starts(data: bytes) -> dict[str, Odd]:
    files = {
        "newline": b"\n" + data,
        "byte_order_mark": b"\xef\xbb\xbf" + data,
        "end_marker": END + data,
        "ends_before_it_starts": b"\xff\xd8\xff\xd9" + data,
        "starts_twice": data[:2] + data,
        "length": len(data).to_bytes(4, "little") + data,
        "sixteen_bytes": b"0123456789abcdef" + data,
    }
    return {f"jpeg_after_{name}": Odd(odd, data, "stray_bytes") for name, odd in files.items()}


def _xmp() -> dict[str, Odd]:
    """Orientations that are in XMP alone, as XML allows them to be written."""
    cat = source_picture("chelsea.png")
    plain, turned = encoded(cat, "JPEG"), oriented(cat, 6)
    forms = {
        "double_quotes": b'<a tiff:Orientation="6"/>',
        "single_quotes": b"<a tiff:Orientation='6'/>",
        "spaces": b"<a tiff:Orientation = '6' />",
        "an_element": b"<a><tiff:Orientation>6</tiff:Orientation></a>",
        "an_element_and_spaces": b"<a><tiff:Orientation>\n 6 </tiff:Orientation></a>",
    }
    name = b"http://ns.adobe.com/xap/1.0/\0"
    return {
        f"jpeg_xmp_{form}": Odd(plain[:2] + segment(0xE1, name + text) + plain[2:], turned)
        for form, text in forms.items()
    }


def broken_jpegs() -> dict[str, tuple[bytes, str]]:
    """Name -> (file whose pixels are not all there, its error code)."""
    sources = _sources()
    files: dict[str, tuple[bytes, str]] = {}
    for name in ("baseline", "progressive", "restarts", "grey", "cmyk"):
        data = sources[name]
        middle = (scan_places(data)[0] + len(data)) // 2
        height, width = _sides(data)
        files |= {
            f"{name}_half": (data[: len(data) // 2], "truncated"),
            f"{name}_half_after_junk": (data[:2] + JUNK + data[2 : len(data) // 2], "truncated"),
            f"{name}_half_with_end": (data[: len(data) // 2] + END, "corrupt"),
            f"{name}_taller": (jpeg_with_sides(data, width, height + 40), "corrupt"),
            f"{name}_bytes_in_scan": (data[:middle] + _TEXT + data[middle:], "corrupt"),
            f"{name}_bytes_lost_in_scan": (data[:middle] + data[middle + 700 :], "corrupt"),
            f"{name}_marker_in_scan": (data[:middle] + b"\xff\x47" + data[middle:], "corrupt"),
        }
    restarts, progressive = sources["restarts"], sources["progressive"]
    last = scan_places(progressive)[-1]
    for sampling in (0x11, 0x31, 0x42):
        flat = _flat(sampling)
        files[f"half_of_sampling_{sampling:02x}"] = (
            flat[: -(len(flat) - flat.index(b"\xff\xda")) // 2],
            "truncated",
        )
    fine = encoded(source_picture("coffee.png").resize((200, 150)), "JPEG", quality=100, subsampling=0)
    scan = scan_places(fine)[0] + 14
    for part in (1, 4, 10, 19, 43, 55, 70, 82, 94, 108, 119):
        at = scan + (len(fine) - 2 - scan) * part // 120
        files[f"fine_bytes_in_scan_{part}"] = (fine[:at] + _TEXT + fine[at:], "corrupt")
    return files | {
        "progressive_half_with_end": (progressive[: len(progressive) // 2] + END, "truncated"),
        "progressive_without_its_last_scan": (progressive[:last] + END, "truncated"),
        "wrong_restart": (restarts.replace(b"\xff\xd3", b"\xff\xd6", 1), "corrupt"),
        "missing_restart": (restarts.replace(b"\xff\xd3", b"", 1), "corrupt"),
        "junk_before_restart": (restarts.replace(b"\xff\xd3", JUNK * 3 + b"\xff\xd3", 1), "corrupt"),
        "undeclared_restarts": (restarts.replace(b"\xff\xdd", b"\xff\xfe", 1), "corrupt"),
        "rows_left_over": (jpeg_with_sides(sources["baseline"], 451, 280), "corrupt"),
        "no_height": (jpeg_with_sides(sources["baseline"], 451, 0), "corrupt"),
    }


def _sides(data: bytes) -> tuple[int, int]:
    frame = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return int.from_bytes(data[frame + 5 : frame + 7], "big"), int.from_bytes(
        data[frame + 7 : frame + 9], "big"
    )


def unsupported_jpegs() -> dict[str, tuple[bytes, str]]:
    """Name -> (file that is `unsupported_format`, a part of the error's text)."""
    data = _sources()["baseline"]
    frame = data.index(b"\xff\xc0")
    variants = {
        0xC3: "lossless JPEG",
        0xC5: "hierarchical JPEG",
        0xC6: "hierarchical JPEG",
        0xC7: "hierarchical lossless JPEG",
        0xC9: "arithmetic coding",
        0xCA: "progressive JPEG with arithmetic coding",
        0xCB: "lossless JPEG with arithmetic coding",
        0xCD: "hierarchical JPEG with arithmetic coding",
        0xDE: "hierarchical JPEG",
        0xF7: "JPEG-LS",
    }
    files = {
        f"jpeg_sof_{marker:02x}": (data[: frame + 1] + bytes([marker]) + data[frame + 2 :], text)
        for marker, text in variants.items()
    }
    return files | {
        "jpeg_12_bits": (data[: frame + 4] + b"\x0c" + data[frame + 5 :], "12-bit samples"),
        "jpeg_2_components": (data[: frame + 9] + b"\2" + data[frame + 10 :], "2 components"),
        "jpeg_at_byte_1000": (bytes(1000) + data, "a JPEG starts at byte 1,000"),
    }
