"""Files of images: which are opened, and what of them reaches a decoder.

Only regular files, of the kinds that are promised, up to a stated size. Whatever is not pixels is taken out first:
EXIF, profiles, text, thumbnails and further frames cannot make a photograph unreadable. Of all that, two things are
kept: how the photograph is turned, and how many bits of a sample are in use, where the file says so.
"""

import io
import os
import re
import stat
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from datamodules.errors import UserError

BEGINNINGS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "WEBP": (b"RIFF",),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
}  # of a file, by Pillow's name of its kind
MAX_PIXELS = 400_000_000  # of an image: a montage of 20,000 x 20,000
MAX_BYTES = 1 << 31  # of a file
MAX_TEXT = 1 << 20  # bytes of a compressed text that is looked at for an orientation
TOO_LARGE = f"larger than {MAX_BYTES >> 30} GiB, the most that is read"
NOT_FILES = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
BITS_PER_SAMPLE, COMPRESSION, ORIENTATION, MAX_SAMPLE, PLANES, XMP = 258, 259, 0x0112, 281, 284, 700  # tags of TIFF
PIXEL_TAGS = frozenset(
    (*range(254, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 334)
    + (336, 338, 339, 347, *range(512, 522), *range(529, 533))
)  # of TIFF, that a decoder needs
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # of PNG
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many, and warns of fewer


class ImageError(UserError):
    """A file that cannot be read as an image; the message is the reason."""


class Plain(NamedTuple):
    """An image file without what is not pixels, and what was kept of that.

    `orientation` counts as EXIF does, from 1 to 8. A sample has `depth` bits (of PNG and TIFF), of which `bits` are in
    use, None where the file does not say so.
    """

    content: bytes
    kind: str
    orientation: int = 1
    depth: int = 8
    bits: int | None = None


def read_bytes(file: str | Path | BinaryIO) -> bytes:
    """The bytes of a regular file, or of an open one.

    Raises ImageError for what is no regular file, or a larger one than MAX_BYTES; OSError where it cannot be had.
    """
    if not isinstance(file, (str, os.PathLike)):
        file.seek(0)
        return _bounded(file)
    try:
        _check_regular(os.stat(file))  # before it is opened: to open a pipe or a device may already do something
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
            _check_regular(os.fstat(opened.fileno()))
            return _bounded(opened)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(file)) from error  # of a read that fails it names no file


def _check_regular(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        what = next((name for is_one, name in NOT_FILES.items() if is_one(state.st_mode)), "a device")
        raise ImageError(f"cannot be decoded: it is {what}, and no regular file")
    if state.st_size > MAX_BYTES:
        raise ImageError(TOO_LARGE)


def _bounded(opened: BinaryIO) -> bytes:
    content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ImageError(TOO_LARGE)
    return content


def opened(plain: Plain) -> Image.Image:
    """The image of a file, its pixels not decoded yet: the one place that hands bytes to Pillow.

    Raises ImageError where they are none of its kind; what else decoders raise on damaged files.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(plain.content), formats=(plain.kind,))
    except UnidentifiedImageError:
        try:
            Image.OPEN[plain.kind][0](io.BytesIO(plain.content), "")  # says what Pillow keeps to itself
        except SyntaxError as error:
            raise ImageError(f"not an image: begins as {plain.kind}, and {error}") from error
        raise


def without_metadata(content: bytes) -> Plain:
    """Take out of a file whatever is not pixels. Raises ImageError for one that begins as none of the kinds."""
    kind = next((kind for kind, ways in BEGINNINGS.items() if content.startswith(ways)), None)
    if kind is None:
        raise ImageError(f"not an image, or of a kind that is not read; these are: {', '.join(BEGINNINGS)}")
    take = {"JPEG": _of_jpeg, "PNG": _of_png, "TIFF": _of_tiff, "WEBP": _of_webp}.get(kind)
    return Plain(content, kind) if take is None else take(content)


def _of_jpeg(content: bytes) -> Plain:
    kept, notes, at = [content[:2]], _Notes(), 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA:  # what follows is pixels
            return Plain(b"".join((*kept, content[at:])), "JPEG", notes.orientation)
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9 or length < 2:  # not a segment
            at += 1
            continue
        segment, at = content[at : at + 2 + length], at + 2 + length
        body = segment[4:]
        if body.startswith(b"Exif\0\0") and marker == 0xE1:
            notes.exif(body)
        elif body.startswith(b"http://ns.adobe.com/xap/1.0/\0") and marker == 0xE1:
            notes.xmp(body)
        is_note = 0xE0 <= marker <= 0xEF or marker == 0xFE
        of_colours = (marker == 0xE0 and body[:5] == b"JFIF\0") or (marker == 0xEE and body[:5] == b"Adobe")
        if not is_note or (of_colours and len(body) >= 12):
            kept.append(segment)
    return Plain(content, "JPEG")  # the decoder says what is amiss


def _of_png(content: bytes) -> Plain:
    kept, notes, depth, bits, at = [content[:8]], _Notes(), content[24:25], None, 8
    depth = depth[0] if depth else 8
    while at + 8 <= len(content):
        name, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        body = content[at + 8 : end - 4]
        if name == b"IEND":
            break
        if name in PIXEL_CHUNKS:
            kept.append(content[at:end])
            if end > len(content):
                return Plain(b"".join(kept), "PNG", notes.orientation, depth, bits)  # cut off: the decoder says so
        elif name == b"sBIT" and body:
            bits = max(body[:3])
        elif name == b"eXIf":
            notes.exif(body)
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            _text_of_png(name, body, notes)
        at = end
    return Plain(b"".join((*kept, END_OF_PNG)), "PNG", notes.orientation, depth, bits)


def _text_of_png(name: bytes, body: bytes, notes: "_Notes") -> None:
    key, _, text = body.partition(b"\0")
    if key == b"Raw profile type exif" and name != b"iTXt":
        text = _inflated(text[1:]) if name == b"zTXt" else text
        digits = re.match(rb"\s*exif\s+\d+\s+([0-9a-fA-F\s]*)", text)
        digits = b"".join(digits[1].split()) if digits else b""
        notes.exif(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()))
    elif key == b"XML:com.adobe.xmp" and name == b"iTXt":
        compressed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
        notes.xmp(_inflated(text) if compressed else text)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT)
    except zlib.error:
        return b""


def _of_tiff(content: bytes) -> Plain:
    order = "little" if content[:2] == b"II" else "big"
    large = content[2:4] in (b"+\0", b"\0+")  # BigTIFF
    entry_size, count_size, word = (20, 8, 8) if large else (12, 2, 4)

    def number(start: int, size: int) -> int:
        return int.from_bytes(content[start : start + size], order)

    directory = number(8 if large else 4, word)
    first, count = directory + count_size, number(directory, count_size)
    entries = [content[start : start + entry_size] for start in range(first, first + count * entry_size, entry_size)
               if start + entry_size <= len(content)] if count <= 4096 else []  # fmt: skip
    if not entries or len(entries) < count:
        return Plain(content, "TIFF")  # the decoder says what is amiss
    notes, depth, bits, apart, plain, kept = _Notes(), 8, None, False, True, []
    for entry in entries:
        tag, num = int.from_bytes(entry[:2], order), int.from_bytes(entry[4 : 4 + word], order)
        value, start = entry[4 + word :], int.from_bytes(entry[4 + word :], order)
        first_short = int.from_bytes(value[:2] if num * 2 <= word else content[start : start + 2], order)
        if tag == ORIENTATION:
            notes.turn(_inline(entry[2:4], value, order))
        elif tag == XMP:
            notes.xmp(content[start : start + min(num, MAX_TEXT)])
        elif tag == BITS_PER_SAMPLE:
            depth = first_short
        elif tag == MAX_SAMPLE and (first_short + 1) & first_short == 0:  # else it is but the brightest pixel
            bits = first_short.bit_length()
        elif tag == PLANES:
            apart = first_short == 2
        elif tag == COMPRESSION:
            plain = first_short == 1
        if tag in PIXEL_TAGS:
            kept.append(entry)
    if apart and plain and depth == 16:  # Pillow reads noise
        raise ImageError(
            "colour planes of 16 bits that lie apart in a TIFF; save it with the samples of a pixel together"
        )
    table = len(kept).to_bytes(count_size, order) + b"".join(kept) + bytes(word)  # no further directory
    end = directory + len(table)
    return Plain(b"".join((content[:directory], table, content[end:])), "TIFF", notes.orientation, depth, bits)


def _of_webp(content: bytes) -> Plain:
    notes, at = _Notes(), 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name == b"EXIF":
            notes.exif(content[at + 8 : at + 8 + size])
        elif name == b"XMP ":
            notes.xmp(content[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return Plain(content, "WEBP", notes.orientation)


def _inline(kind: bytes, value: bytes, order: str) -> int:
    """A whole number that lies in an entry of a directory itself; 0 for another kind of value."""
    size = {1: 1, 3: 2, 4: 4}.get(int.from_bytes(kind, order), 0)
    return int.from_bytes(value[:size], order)


class _Notes:
    """What metadata say of the orientation: EXIF before XMP, the first before others."""

    def __init__(self) -> None:
        self._exif, self._xmp = 0, 0

    @property
    def orientation(self) -> int:
        return self._exif or self._xmp or 1

    def turn(self, orientation: int) -> None:
        """As EXIF counts; any other number says nothing."""
        if not self._exif and 1 <= orientation <= 8:
            self._exif = orientation

    def exif(self, block: bytes) -> None:
        """Tag 0x0112 of the first directory; a block that is damaged before it says nothing."""
        block = re.sub(rb"^(?:Exif\0\0)+", b"", block)
        order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
        if order is None:
            return
        first = int.from_bytes(block[4:8], order)
        for number in range(int.from_bytes(block[first : first + 2], order)):
            start = first + 2 + 12 * number
            entry = block[start : start + 12]
            if len(entry) < 12:
                return
            if int.from_bytes(entry[:2], order) == ORIENTATION:
                self.turn(_inline(entry[2:4], entry[8:], order))

    def xmp(self, packet: bytes) -> None:
        """`tiff:Orientation` of a packet."""
        found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', packet[:MAX_TEXT])
        if found and not self._xmp:
            self._xmp = int(found[1])
