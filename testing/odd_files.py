"""Odd files of every format but JPEG, each beside what must become of it. JPEG's are in testing/odd_jpegs.py.

All are made by changing the bytes of files that Pillow wrote.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from testing.pictures import encoded, heic, png_chunk, source_picture


@dataclass(frozen=True)
class Odd:
    """A file whose every pixel is there: it is embedded like `like`, with a notice of this code, if any."""

    data: bytes
    like: bytes
    notice: str = ""


@cache
def odd_files() -> dict[str, Odd]:
    """Name -> file: sound pictures in files with a defect elsewhere."""
    return _odd_pngs() | _odd_gifs() | _odd_bmps() | _odd_webps()


def _odd_pngs() -> dict[str, Odd]:
    cat = source_picture("chelsea.png")
    png, grey = encoded(cat, "PNG"), encoded(cat.convert("L"), "PNG")
    animated = encoded(cat, "PNG", save_all=True, append_images=[cat.rotate(180)])
    at = 33  # the first chunk after the header

    def with_chunk(kind: bytes, content: bytes, *, sound: bool = True) -> bytes:
        chunk = png_chunk(kind, content)
        return png[:at] + (chunk if sound else chunk[:-1] + bytes([chunk[-1] ^ 1])) + png[at:]

    def with_last_chunk(chunk: bytes) -> bytes:
        return png[:-12] + chunk + png[-12:]

    bad_time = with_last_chunk(png_chunk(b"tIME", bytes(7))[:-1] + b"x")
    bomb = b"text\0\0" + zlib.compress(bytes(40_000_000))
    moved = animated.replace(b"fcTL\0\0\0\0", b"fcTL\0\0\0\7", 1)
    start = moved.index(b"fcTL")
    moved = (
        moved[: start + 30] + struct.pack(">I", zlib.crc32(moved[start : start + 30])) + moved[start + 34 :]
    )
    return {
        "png_without_end_chunk": Odd(png[:-12], png, "missing_end"),
        "png_cut_in_the_end_chunk": Odd(png[:-5], png, "missing_end"),
        "png_cut_in_the_last_checksum": Odd(png[:-14], png, "missing_end"),
        "png_cut_in_the_stream_checksum": Odd(png[:-18], png, "missing_end"),
        "png_grey_without_end_chunk": Odd(grey[:-12], grey, "missing_end"),
        "png_zeros_for_the_end_chunk": Odd(png[:-12] + bytes(100), png, "missing_end"),
        "png_cut_in_a_text_chunk": Odd(
            with_last_chunk(png_chunk(b"tEXt", b"a\0b" * 20))[:-30], png, "missing_end"
        ),
        "png_wrong_checksum_of_text": Odd(with_chunk(b"tEXt", b"a\0b", sound=False), png, "damaged_metadata"),
        "png_wrong_checksum_of_gamma": Odd(
            with_chunk(b"gAMA", bytes(4), sound=False), png, "damaged_metadata"
        ),
        "png_wrong_checksum_of_exif": Odd(
            with_chunk(b"eXIf", b"MM\0*", sound=False), png, "damaged_metadata"
        ),
        "png_wrong_checksum_after_the_picture": Odd(bad_time, png, "damaged_metadata"),
        "png_broken_profile": Odd(with_chunk(b"iCCP", b"name\0\7nothing"), png, "damaged_metadata"),
        "png_broken_physical_size": Odd(with_chunk(b"pHYs", b"\0"), png, "damaged_metadata"),
        "png_profile_bomb": Odd(with_chunk(b"iCCP", bomb), png, "damaged_metadata"),
        "png_text_bomb": Odd(with_chunk(b"zTXt", bomb), png, "damaged_metadata"),
        "png_animation_out_of_order": Odd(moved, png, "damaged_metadata"),
        "png_unknown_chunks": Odd(with_chunk(b"teSt", b"?"), png),
        "png_data_after_the_end": Odd(png + b"trailing" * 100, png),
        "png_after_a_newline": Odd(b"\n" + png, png, "stray_bytes"),
        "png_after_a_byte_order_mark": Odd(b"\xef\xbb\xbf" + png, png, "stray_bytes"),
    }


def _odd_gifs() -> dict[str, Odd]:
    cat = source_picture("chelsea.png")
    gif = encoded(cat, "GIF")
    animated = encoded(cat, "GIF", save_all=True, append_images=[cat.rotate(180)])

    def with_screen(width: int, height: int) -> bytes:
        return gif[:6] + struct.pack("<HH", width, height) + gif[10:]

    frame = gif.index(b",\0\0\0\0" + struct.pack("<HH", *cat.size))
    comment = b"!\xfe\5hello\0"
    return {
        "gif_without_trailer": Odd(gif[:-1], gif, "missing_end"),
        "gif_without_terminator": Odd(gif[:-2], gif, "missing_end"),
        "gif_animation_cut_in_its_second_frame": Odd(animated[:-500], gif, "missing_end"),
        "gif_screen_smaller_than_its_frame": Odd(with_screen(100, 50), gif),
        "gif_screen_of_nothing": Odd(with_screen(0, 0), gif),
        "gif_data_after_the_trailer": Odd(gif + b"trailing" * 100, gif),
        "gif_zeros_after_the_trailer": Odd(gif + bytes(1000), gif),
        "gif_comment": Odd(gif[:frame] + comment + gif[frame:], gif),
        "gif_unknown_extension": Odd(gif[:frame] + b"!\x77\3abc\0" + gif[frame:], gif),
        "gif_stray_bytes_before_its_frame": Odd(gif[:frame] + bytes(5) + gif[frame:], gif, "stray_bytes"),
        "gif_after_a_newline": Odd(b"\r\n" + gif, gif, "stray_bytes"),
    }


def _odd_bmps() -> dict[str, Odd]:
    cat = source_picture("chelsea.png")
    bmp = encoded(cat, "BMP")
    pixels = np.asarray(cat)[:, :, ::-1]
    rows = [row.tobytes() + bytes(-len(row.tobytes()) % 4) for row in pixels]
    height = struct.pack("<i", cat.height)
    top_down = bmp[:22] + struct.pack("<i", -cat.height) + bmp[26:54] + b"".join(rows)
    core = struct.pack("<IHHHH", 12, *cat.size, 1, 24)
    os2 = bmp[:10] + struct.pack("<I", 26) + core + bmp[54:]
    assert bmp[22:26] == height
    runs = run_length_bmp(cat.quantize(200))
    return {
        "bmp_run_length": Odd(runs, encoded(cat.quantize(200), "BMP")),
        "bmp_run_length_without_end": Odd(runs[:-2], runs, "missing_end"),
        "bmp_reserved_bytes": Odd(bmp[:6] + b"\1\2\3\4" + bmp[10:], bmp, "stray_bytes"),
        "bmp_wrong_file_size": Odd(bmp[:2] + b"\xff\xff\xff\xff" + bmp[6:], bmp),
        "bmp_file_size_of_zero": Odd(bmp[:2] + bytes(4) + bmp[6:], bmp),
        "bmp_without_the_last_padding": Odd(bmp[:-3], bmp, "missing_end"),
        "bmp_data_after_the_rows": Odd(bmp + bytes(1000), bmp),
        "bmp_top_down": Odd(top_down, bmp),
        "bmp_os2": Odd(os2, bmp),
        "bmp_gap_before_the_rows": Odd(
            bmp[:10] + struct.pack("<I", 100) + bmp[14:54] + bytes(46) + bmp[54:], bmp
        ),
    }


def run_length_bmp(picture: Image.Image) -> bytes:
    """A palette picture with each pixel as a run of one."""
    bmp = encoded(picture, "BMP")
    (offset,) = struct.unpack_from("<I", bmp, 10)
    rows = np.asarray(picture)[::-1]
    runs = b"".join(b"".join(bytes((1, index)) for index in row) + b"\0\0" for row in rows)
    return bmp[:30] + struct.pack("<II", 1, len(runs) + 2) + bmp[38:offset] + runs + b"\0\1"


def _odd_webps() -> dict[str, Odd]:
    cat = source_picture("chelsea.png")
    lossy, lossless = encoded(cat, "WEBP"), encoded(cat.resize((150, 100)), "WEBP", lossless=True)
    assert lossy[12:16] == b"VP8 "

    def with_size(data: bytes, length: int) -> bytes:
        return data[:4] + struct.pack("<I", length) + data[8:]

    unknown = b"ABCD" + struct.pack("<I", 3) + b"abc\0"
    exif = b"EXIF" + struct.pack("<I", 4) + b"MM\0*"
    flags = (
        struct.pack("<I", 8) + (cat.width - 1).to_bytes(3, "little") + (cat.height - 1).to_bytes(3, "little")
    )
    extended = b"WEBPVP8X" + struct.pack("<I", 10) + flags + lossy[12:] + exif
    extended = b"RIFF" + struct.pack("<I", len(extended)) + extended
    length = len(lossy) - 8
    content = lossy[20:-1] if lossy[-1] == 0 else lossy[20:]
    odd_end = b"VP8 " + struct.pack("<I", len(content)) + content
    unpadded = b"RIFF" + struct.pack("<I", len(odd_end) + 4) + b"WEBP" + odd_end
    return {
        "webp_declares_more": Odd(with_size(lossy, length + 2), lossy, "missing_end"),
        "webp_declares_less": Odd(with_size(lossy, length - 100), lossy, "damaged_metadata"),
        "webp_declares_nothing": Odd(with_size(lossy, 0), lossy, "damaged_metadata"),
        "webp_lossless_declares_more": Odd(with_size(lossless, 1 << 20), lossless, "missing_end"),
        "webp_data_after_the_end": Odd(lossy + b"trailing" * 100, lossy),
        "webp_unknown_chunk": Odd(with_size(lossy + unknown, length + len(unknown)), lossy),
        "webp_unknown_chunk_first": Odd(
            with_size(lossy[:12] + unknown + lossy[12:], length + len(unknown)), lossy, "stray_bytes"
        ),
        "webp_cut_in_its_exif": Odd(extended[:-2], lossy, "missing_end"),
        "webp_extended": Odd(extended, lossy),
        "webp_odd_length_without_padding": Odd(unpadded, lossy, "missing_end"),
    }


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@cache
def broken_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, the error code that it must be rejected with): pixels are missing or wrong."""
    cat = source_picture("chelsea.png")
    png, gif = encoded(cat, "PNG"), encoded(cat, "GIF")
    bmp, webp = encoded(cat, "BMP"), encoded(cat, "WEBP")
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(cat)[:150])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *cat.size, 8, 2, 0, 0, 0))
    end = png_chunk(b"IEND", b"")
    half_stream = png[:8] + header + png_chunk(b"IDAT", zlib.compress(rows)) + end
    interlaced = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *cat.size, 8, 2, 0, 0, 1))
    first_passes = png[:8] + interlaced + png_chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + end
    palette = encoded(cat.quantize(200), "PNG")
    without_palette = palette[:33] + palette[palette.index(b"IDAT") - 4 :]
    one_color = encoded(Image.new("P", (90, 60), 3), "PNG")
    wrong = bytearray(png)
    wrong[png.index(b"IDAT") + 50] ^= 1
    return {
        "png_last_rows_lost": (png[:-400], "truncated"),
        "png_stream_ends_early": (half_stream, "truncated"),
        "png_interlaced_stream_ends_early": (first_passes, "corrupt"),
        "png_header_alone": (png[:33], "truncated"),
        "png_wrong_checksum_of_picture": (bytes(wrong), "corrupt"),
        "png_without_its_palette": (without_palette, "corrupt"),
        "png_of_one_color_without_its_palette": (
            one_color[:33] + one_color[one_color.index(b"IDAT") - 4 :],
            "corrupt",
        ),
        "gif_last_rows_lost": (gif[:-400], "truncated"),
        "gif_without_a_frame": (gif[: 13 + 768] + b";", "corrupt"),
        "bmp_run_length_half": (_half(run_length_bmp(cat.quantize(200))), "truncated"),
        "bmp_last_pixel_lost": (bmp[:-4], "truncated"),
        "avif_half": (_half(encoded(cat, "AVIF", speed=10)), "truncated"),
        "heic_half": (_half(heic(cat)), "truncated"),
        "heic_last_bytes_lost": (heic(cat)[:-10], "truncated"),
        "tiff_half": (_half(encoded(cat, "TIFF")), "truncated"),
        "tiff_last_pixel_lost": (encoded(cat, "TIFF")[:-1], "truncated"),
        "webp_last_bytes_lost": (webp[:-10], "truncated"),
        "webp_extended_half": (
            _half(encoded(cat.convert("RGBA"), "WEBP", exif=b"MM\0*\0\0\0\x08\0\0")),
            "truncated",
        ),
    }


def named_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, part of the text of its `unsupported_format` error)."""
    cat = source_picture("chelsea.png").resize((90, 60))
    png, bmp = encoded(cat, "PNG"), encoded(cat, "BMP")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "a")
    jp2 = encoded(cat, "JPEG2000")
    junk = bytes(range(256)) * 4

    def media(brand: bytes) -> bytes:
        return b"\0\0\0\x18ftyp" + brand + bytes(4) + brand + b"isom" + junk

    return {
        "cgbi.png": (png[:8] + png_chunk(b"CgBI", b"P\0 \2") + png[8:], "CgBI"),
        "jpeg_2000.jp2": (jp2, "JPEG 2000"),
        "jpeg_2000.j2k": (jp2[jp2.index(b"\xff\x4f\xff\x51") :], "JPEG 2000"),
        "container.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + junk, "JPEG XL"),
        "codestream.jxl": (b"\xff\x0a" + junk, "JPEG XL"),
        "raw.cr3": (media(b"crx "), "CR3"),
        "raw.raf": (b"FUJIFILMCCD-RAW 0201" + junk, "RAF"),
        "raw.orf": (b"IIRO\x08\0\0\0" + junk, "ORF"),
        "raw.rw2": (b"IIU\0\x18\0\0\0" + junk, "RW2"),
        "layers.psd": (b"8BPS\0\1" + junk, "Photoshop"),
        "drawing.svg": (
            b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
            "SVG",
        ),
        "paper.pdf": (b"%PDF-1.7\n" + junk, "PDF"),
        "icon.ico": (encoded(cat, "ICO"), "ICO"),
        "film.mp4": (media(b"isom"), "MP4"),
        "film.mov": (media(b"qt  "), "QuickTime"),
        "film.webm": (b"\x1aE\xdf\xa3" + junk, "WebM"),
        "error.html": (b"<!DOCTYPE html><html><head><title>404</title>", "HTML"),
        "error.xml": (b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML"),
        "error.json": (b'{"error": {"code": 404}}', "JSON"),
        "photos.zip": (archive.getvalue(), "ZIP"),
        "photo.gz": (b"\x1f\x8b\x08" + junk, "gzip"),
        "notes.txt": (b"Dear diary,\n", "text"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        "jpeg_in.bmp": (bmp[:30] + struct.pack("<I", 4) + bmp[34:], "JPEG"),
        "array.bmp": (b"BA" + bytes(12) + bmp, "OS/2"),
        "bananas.txt": (b"BANANA bread: mash the bananas\n", "text"),
        "os2_short.bmp": (bmp[:14] + struct.pack("<I", 16) + bmp[18:], "OS/2"),
        "two_bits.bmp": (bmp[:28] + struct.pack("<H", 2) + bmp[30:], "2 bits"),
    }


def animations() -> dict[str, tuple[bytes, bytes, bytes]]:
    """Name -> (an animation whose first frame is blank, its first frame with content, its first frame)."""
    cat = source_picture("chelsea.png").resize((180, 120))
    white, black = Image.new("RGB", cat.size, "white"), Image.new("RGB", cat.size)
    clear, opaque = Image.new("RGBA", cat.size), cat.convert("RGBA")
    content, turned = encoded(cat, "PNG"), cat.rotate(180)
    whites = [white, Image.new("RGB", cat.size, "red")]
    palette = cat.quantize(255)

    def animated(name: str, first: Image.Image, *others: Image.Image, **options: object) -> bytes:
        return encoded(first, name, save_all=True, append_images=list(others), duration=50, **options)

    gif_content = encoded(palette, "GIF")
    gray = encoded(Image.new("L", cat.size), "PNG")
    return {
        "white_first.gif": (animated("GIF", white, palette), gif_content, encoded(white, "PNG")),
        "two_blank.gif": (animated("GIF", *whites, palette), gif_content, encoded(white, "PNG")),
        "transparent_first.gif": (animated("GIF", clear, palette, disposal=2), gif_content, gray),
        "white_first.webp": (animated("WEBP", white, cat, turned), content, encoded(white, "PNG")),
        "transparent_first.webp": (animated("WEBP", clear, opaque, lossless=True), content, gray),
        "black_first.png": (animated("PNG", black, cat, turned), content, gray),
        "transparent_first.png": (animated("PNG", clear, opaque), content, gray),
        "black_first.avif": (animated("AVIF", black, cat, speed=10), content, gray),
    }
