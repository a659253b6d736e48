"""Which files are opened as images, and that whatever is not pixels makes none unreadable."""

import io
import os
import re
import socket
import struct
import subprocess
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin
from refusals import refuses

from datamodules import image_files
from datamodules.images import ImageError, read_image

REPO = Path(__file__).parents[2]
OPENERS = re.compile(r"\bImage\.open\(|\bcv2\.im(?:read|decode)|\bImageFile\.Parser|\bplt\.imread")


def test_one_place_opens_images_of_others():
    """Who opens an image elsewhere names the kinds, or goes through read_image."""
    files = [file for room in ("datamodules", "callbacks", "experiments", "lightning_modules")
             for file in (REPO / room).rglob("*.py")]  # fmt: skip
    lines = {(file.stem, line.strip()) for file in files for line in file.read_text("utf-8").splitlines()}
    loose = {(name, line) for name, line in lines if OPENERS.search(line) and "formats=" not in line}
    assert {name for name, _ in loose} <= {"bit_depth"}, loose  # of a file that was opened as PNG or TIFF before


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
OTHERS = {"eps": POSTSCRIPT, "psd": b"8BPS\0\1" + bytes(40), "ico": b"\0\0\1\0\1\0" + bytes(40), "fits": b"SIMPLE  ="}


@pytest.mark.parametrize("name", OTHERS)
def test_only_promised_kinds_are_opened_whatever_the_name_says(tmp_path, monkeypatch, name):
    def refuse(*arguments, **named):
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    (tmp_path / "x.jpg").write_bytes(OTHERS[name])
    for file in (tmp_path / "x.jpg", io.BytesIO(OTHERS[name])):
        with refuses(ImageError, "JPEG, PNG, TIFF, BMP, GIF, WEBP, PPM"):
            read_image(file)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "bmp", "gif", "webp", "ppm"])
def test_promised_kinds_are_opened_whatever_the_name_says(tmp_path, photograph, kind):
    Image.fromarray(photograph()).save(tmp_path / f"image.{kind}")
    (tmp_path / f"image.{kind}").rename(tmp_path / "image.txt")
    assert np.abs(read_image(tmp_path / "image.txt").astype(int) - photograph()).mean() < 8


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # a socket's address is short
        bound.bind("socket.jpg")
        for name, what in (("pipe", "pipe"), ("folder", "folder"), ("link", "device"), ("socket", "socket")):
            with refuses(ImageError, what, "regular"):
                read_image(tmp_path / f"{name}.jpg")


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch, save_photograph):
    path = save_photograph(tmp_path / "whole.png")
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    with refuses(ImageError, "2 GiB"):
        read_image(path)


def test_montages_are_read_up_to_a_stated_size(tmp_path):
    Image.new("L", (19_000, 10_000)).save(tmp_path / "montage.jpg")  # Pillow's own limit is 178,956,970 pixels
    assert read_image(tmp_path / "montage.jpg", min_side=256).shape == (1250, 2375, 3)
    bomb = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bomb) + chunk(b"IDAT", zlib.compress(b""))
    )
    with refuses(ImageError, 40_000**2, 400_000_000):
        read_image(tmp_path / "bomb.png")


# -- metadata


def ifd(*entries, tail=b"") -> bytes:
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + tail


TURN = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
EXIFS = {
    "blank": (b"", False),
    "no header": (b"\0\x08\0\x02\x01\x12\0\x03", False),
    "header twice": (b"Exif\0\0" + ifd(TURN), True),
    "zero over zero": (ifd(TURN, (0x011A, 10, 1, struct.pack("<I", 38)), tail=struct.pack("<ii", -1, 0)), True),
    "pointer out of the block": (ifd(TURN, (0x8769, 4, 1, struct.pack("<I", 60000))), True),
    "unknown type": (ifd((0x0110, 99, 1, bytes(4)), TURN), True),
    "huge count": (ifd((0x0110, 2, 0xFFFFFFFF, struct.pack("<I", 8)), TURN), True),
    "cut off": (ifd(TURN)[:19], False),
    "turned by 99": (ifd((0x0112, 3, 1, struct.pack("<HH", 99, 0))), False),
    "a circle": (ifd((0x8769, 4, 1, struct.pack("<I", 8)), TURN), True),
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_notes(whole: bytes, notes: bytes) -> bytes:
    """Segments or chunks put where a file of their kind has them."""
    place = 33 if whole.startswith(b"\x89PNG") else 2
    return whole[:place] + notes + whole[place:]


@pytest.fixture(scope="module")
def whole():
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = 255
    return {kind: encoded(pixels, kind) for kind in ("jpeg", "png", "tiff", "webp")}


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def check_read(content: bytes, turned: bool) -> None:
    rgb = read_image(io.BytesIO(content))
    assert rgb.shape == ((60, 40, 3) if turned else (40, 60, 3))
    bright, dark = ((5, 35), (5, 5)) if turned else ((5, 5), (35, 5))
    assert rgb[bright].min() > 200 and rgb[dark].max() < 50


@pytest.mark.parametrize("name", EXIFS)
def test_of_exif_only_the_orientation_counts(whole, name):
    block, turned = EXIFS[name]
    check_read(with_notes(whole["jpeg"], segment(0xE1, b"Exif\0\0" + block)), turned)
    check_read(with_notes(whole["png"], chunk(b"eXIf", block)), turned)
    profile = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % len(block) + block.hex().encode())
    check_read(with_notes(whole["png"], chunk(b"zTXt", profile)), turned)
    exif = b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    webp = whole["webp"] + exif
    check_read(webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:], turned)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_every_orientation_is_followed_as_pillow_does(photograph, kind, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(width=80, height=60, radius=35), kind, exif=exif)
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "TIFF")) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(io.BytesIO(content)), expected)


PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/>'
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LONG = bytes(1 << 21)
OF_JPEG = {
    "profile without an end": segment(0xE2, b"ICC_PROFILE\0"),
    "profile of a missing part": segment(0xE2, b"ICC_PROFILE\0\1\7" + SRGB),
    "frames that are not there": segment(0xE2, b"MPF\0" + ifd((0xB001, 4, 1, struct.pack("<I", 9)))),
    "photoshop's, cut": segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\x02"),
    "jfif, cut": segment(0xE0, b"JFIF\0"),
    "adobe, cut": segment(0xEE, b"Adobe"),
    "xmp that is none": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<<<"),
    "comments": segment(0xFE, b"x" * 60000) * 40,
}
OF_PNG = {
    "long text": chunk(b"tEXt", b"comment\0" + b"x" * (70 << 20)),
    "inflated text": chunk(b"zTXt", b"comment\0\0" + zlib.compress(LONG)),
    "inflated international text": chunk(b"iTXt", b"comment\0\1\0\0\0" + zlib.compress(LONG)),
    "text of another compression": chunk(b"zTXt", b"comment\0\7abc"),
    "inflated profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
    "profile of another compression": chunk(b"iCCP", b"profile\0\7" + zlib.compress(SRGB)),
    "profile without a name": chunk(b"iCCP", b""),
    "blank times, sizes, colours": b"".join(chunk(name, b"") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME")),
    "frames that are not there": chunk(b"acTL", bytes(3)) + chunk(b"fcTL", bytes(2)),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
}


@pytest.mark.parametrize("name", OF_JPEG)
def test_notes_of_a_jpeg_are_not_pixels(whole, name):
    check_read(with_notes(whole["jpeg"], OF_JPEG[name]), turned=False)


@pytest.mark.parametrize("name", OF_PNG)
def test_notes_of_a_png_are_not_pixels(whole, name):
    check_read(with_notes(whole["png"], OF_PNG[name]), turned=False)
    end = whole["png"].index(b"IEND") - 4
    check_read(whole["png"][:end] + OF_PNG[name] + whole["png"][end:], turned=False)


def test_xmp_tells_the_orientation_where_exif_does_not(whole):
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET)
    check_read(with_notes(whole["jpeg"], xmp), turned=True)
    check_read(with_notes(whole["png"], chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)), turned=True)
    upright = segment(0xE1, b"Exif\0\0" + ifd((0x0112, 3, 1, struct.pack("<HH", 1, 0))))
    check_read(with_notes(whole["jpeg"], xmp + upright), turned=False)


def test_tags_of_a_tiff_that_are_not_pixels_and_further_pages_are_left_out(photograph):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "x" * (3 << 20)  # ImageDescription
    tags[34675] = SRGB[:50]
    tags[700] = PACKET
    content = bytearray(encoded(photograph(), "tiff", tiffinfo=tags, save_all=True,
                                append_images=[Image.new("L", (9, 9))]))  # fmt: skip
    place = struct.unpack("<I", content[4:8])[0] + 2
    for start in range(place, place + 12 * struct.unpack("<H", content[place - 2 : place])[0], 12):
        if struct.unpack("<H", content[start : start + 2])[0] == 34675:
            content[start : start + 8] = struct.pack("<HHI", 0x8769, 4, 1)  # a directory that lies nowhere
            content[start + 8 : start + 12] = struct.pack("<I", 0xFFFFFFF0)
    assert np.array_equal(read_image(io.BytesIO(content)), np.rot90(photograph(), -1))


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("tail", [b"", bytes(4000), b"\xff\xd8\xff\xe1\xff", POSTSCRIPT])
def test_what_follows_the_image_is_not_pixels(whole, kind, tail):
    check_read(whole[kind] + tail, turned=False)


def test_a_png_that_lacks_its_end_alone_is_whole_and_one_that_lacks_pixels_is_not(whole):
    end = whole["png"].index(b"IEND") - 4
    check_read(whole["png"][:end], turned=False)
    with refuses(ImageError, "decoded"):
        read_image(io.BytesIO(whole["png"][: end - 40]))


def test_the_true_reason_is_told_of_a_kind_that_cannot_be_decoded(whole):
    frame = whole["jpeg"].index(b"\xff\xc0") + 4
    with refuses(ImageError, "JPEG", "12-bit"):
        read_image(io.BytesIO(whole["jpeg"][:frame] + b"\x0c" + whole["jpeg"][frame + 1 :]))


# -- depth


def exposed(photograph) -> np.ndarray:
    rgb = photograph().astype(float)
    return np.clip(rgb * 250 / np.percentile(rgb, 99), 0, 255).astype(np.uint16)


def save_deep(path: Path, samples: np.ndarray) -> Path:
    cv2.imwrite(str(path), samples[:, :, ::-1])
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("scale", [257, 256, 64, 16, 4, 1])
def test_colour_of_fewer_bits_in_16_is_as_bright_as_of_8(tmp_path, photograph, suffix, scale):
    rgb = exposed(photograph)
    read = read_image(save_deep(tmp_path / f"deep.{suffix}", rgb * scale))
    assert np.abs(read.astype(int) - rgb).max() <= 1


def test_colour_that_a_camera_of_12_bits_saturated_is_as_bright_as_of_8(tmp_path, photograph):
    rgb = photograph().astype(np.uint16)
    read = read_image(save_deep(tmp_path / "deep.png", np.minimum(rgb * 20 + 3, 4095)))
    assert np.abs(read.astype(int) - np.minimum(rgb * 20 + 3, 4095) / 4095 * 255).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_dark_colour_of_16_bits_stays_dark_or_is_refused_with_the_reason(tmp_path, photograph, suffix):
    dark = (photograph() * 0.2).astype(np.uint16)
    read = read_image(save_deep(tmp_path / f"of_8.{suffix}", dark * 257))
    assert np.array_equal(read, dark)
    with refuses(ImageError, "16 bits", 65535, "sBIT", "MaxSampleValue"):
        read_image(save_deep(tmp_path / f"of_16.{suffix}", (photograph() * 0.2 * 257).astype(np.uint16)))


@pytest.mark.parametrize(("bits", "white"), [(12, 4095), (14, 16383), (16, 65535)])
def test_the_depth_that_a_file_declares_counts(tmp_path, photograph, bits, white):
    samples = photograph().astype(np.uint16) * 8 + 3  # of 12 bits, underexposed
    content = save_deep(tmp_path / "deep.png", samples).read_bytes()
    (tmp_path / "deep.png").write_bytes(with_notes(content, chunk(b"sBIT", bytes((bits,) * 3))))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[281] = white
    grey = samples[:, :, 1]
    Image.fromarray(grey).save(tmp_path / "grey.tif", tiffinfo=info)
    for name, expected in (("deep.png", samples), ("grey.tif", grey[:, :, None])):
        difference = read_image(tmp_path / name).astype(int) - expected / white * 255
        assert np.abs(difference).max() <= 1, name


def test_transparency_of_12_bits_is_scaled_with_its_colour(tmp_path, photograph):
    rgb = exposed(photograph)
    rgba = np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 255, np.uint16)]) * 16
    cv2.imwrite(str(tmp_path / "deep.png"), rgba)
    assert np.abs(read_image(tmp_path / "deep.png").astype(int) - rgb).max() <= 3


def test_grey_of_8_bits_in_16_is_not_made_bright(tmp_path):
    dark = np.arange(60, dtype=np.uint16).reshape(6, 10)
    Image.fromarray(dark * 257).save(tmp_path / "dark.png")
    assert np.array_equal(read_image(tmp_path / "dark.png")[:, :, 0], dark)


def test_planes_that_lie_apart_are_refused_rather_than_read_as_noise(tmp_path, photograph):
    tifffile = pytest.importorskip("tifffile")
    planes = np.ascontiguousarray(photograph().astype(np.uint16).transpose(2, 0, 1)) * 257
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    with refuses(ImageError, "16 bits", "planes", "TIFF"):
        read_image(tmp_path / "planes.tif")


def test_an_entry_of_exif_is_read_without_what_follows_it(whole):
    block = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1, 3, 1, 0) * 65534
    block += struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4 << 20)
    start = time.process_time()
    assert (
        image_files.without_metadata(whole["webp"] + b"EXIF" + struct.pack("<I", len(block)) + block).orientation == 6
    )
    assert time.process_time() - start < 2.0
