"""Names of file types that are recognized and not decoded, for the text of an `unsupported_format` error.

To name another one, add its signature to _SIGNATURES.
"""

from __future__ import annotations

import re

from clip_preprocess.headers.base import Data

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (8, b"CR\x02", "camera raw (CR2)"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIRO", "camera raw (ORF)"),
    (0, b"IIRS", "camera raw (ORF)"),
    (0, b"MMOR", "camera raw (ORF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
    (0, b"FOVb", "camera raw (X3F)"),
    (0, b"\0MRM", "camera raw (MRW)"),
    (6, b"HEAPCCDR", "camera raw (CRW)"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\1\0", "Windows icon (ICO)"),
    (0, b"\0\0\2\0", "Windows cursor (CUR)"),
    (0, b"icns", "Apple icon (ICNS)"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"\x8aMNG", "MNG animation"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"qoif", "QOI"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"DDS ", "DirectDraw texture (DDS)"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
    (40, b" EMF", "Windows metafile (EMF)"),
    (14, b"BM", "OS/2 bitmap array"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (0, b"%PDF", "PDF"),
    (0, b"\x1aE\xdf\xa3", "video (WebM or Matroska)"),
    (0, b"\0\0\1\xba", "video (MPEG)"),
    (0, b"\0\0\1\xb3", "video (MPEG)"),
    (0, b"FLV\x01", "video (Flash)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video (WMV)"),
    (8, b"AVI ", "video (AVI)"),
    (8, b"WAVE", "audio (WAV)"),
    (0, b"ID3", "audio (MP3)"),
    (0, b"OggS", "audio or video (Ogg)"),
    (0, b"fLaC", "audio (FLAC)"),
    (0, b"PK\3\4", "ZIP archive or Office document"),
    (0, b"PK\5\6", "ZIP archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ\0", "xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"Rar!", "RAR archive"),
    (257, b"ustar", "tar archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office document"),
    (0, b"{\\rtf", "RTF document"),
    (0, b"PAR1", "Parquet"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"SQLite format 3", "SQLite database"),
    (0, b"\x7fELF", "program (ELF)"),
    (0, b"bplist00", "Apple property list"),
    (0, b"version https://git-lfs", "Git LFS pointer, not the photo itself"),
)
"""(offset, the bytes there, name). The first match wins."""
_BRANDS = {b"crx ": "camera raw (CR3)", b"qt  ": "video (QuickTime)", b"M4A ": "audio (M4A)"}
"""Major brands of ISO media files; all others are video."""
_COMMENTS = rb"(<!--((?!-->).)*-->\s*)*"
"""Each part ends at the first `-->`: if it could end at a later one, the time would double per comment."""
_MARKUP: tuple[tuple[bytes, str], ...] = (
    (rb"\s*(<\?xml[^>]*>\s*)?" + _COMMENTS + rb"(<!doctype svg[^>]*>\s*)?<svg[\s>]", "SVG"),
    (rb"\s*" + _COMMENTS + rb"<(!doctype html|html|head|body)", "HTML page"),
    (rb"\s*<(\?xml|error)[\s>]", "XML document"),
    (rb'\s*[{\[]\s*("|\{|\[|\]|\})', "JSON document"),
)
_READ = 512
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e]+")


def name_of(data: Data) -> str:
    """The name of the type by the first bytes of `data`; empty if it is not known."""
    start = bytes(data[:_READ])
    for offset, signature, name in _SIGNATURES:
        if start.startswith(signature, offset):
            return name
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return _BRANDS.get(start[8:12] if start[4:8] == b"ftyp" else b"qt  ", "video (MP4)")
    text = start.removeprefix(b"\xef\xbb\xbf")
    for pattern, name in _MARKUP:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            return name
    return "text" if _TEXT.fullmatch(text) else ""
