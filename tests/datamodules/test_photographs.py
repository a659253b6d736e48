"""Reading, finding the field of view, and cropping, on drawn discs and on real photographs."""

import errno
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from refusals import refuses

from datamodules.field_of_view import FieldOfView, NotAFundusError, detect_field_of_view
from datamodules.images import ImageError, read_image, square_crop, whole_frame


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(-12, 12), st.floats(-8, 8), st.floats(70, 105), st.integers(0, 3))
def test_the_disc_is_found_where_it_was_drawn(photograph, dx, dy, radius, seed):
    rgb = photograph(width=300, height=200, x=150 + dx, y=100 + dy, radius=radius, seed=seed)
    fov = detect_field_of_view(rgb)
    assert abs(fov.x - 150 - dx) < 2 and abs(fov.y - 100 - dy) < 2 and abs(fov.radius - radius) < 2.5


def test_a_large_photograph_is_measured_on_a_reduced_copy(photograph):
    rgb = photograph(width=2000, height=1300, x=980, y=660, radius=790)
    fov = detect_field_of_view(rgb)
    assert np.allclose([fov.x, fov.y, fov.radius], [980, 660, 790], atol=10)


@pytest.mark.parametrize(("size", "radius"), [(40, 18), (64, 32), (64, 28), (96, 48), (128, 64), (128, 75)])
def test_small_images_and_images_that_were_cropped_before_are_found(photograph, size, radius):
    fov = detect_field_of_view(photograph(width=size, height=size, radius=radius))
    assert np.allclose([fov.x, fov.y, fov.radius], [size / 2, size / 2, radius], atol=2.5)


def circle_difference(rgb):
    """Height and width of the bright part of a crop, as a fraction of its side."""
    bright = rgb.max(axis=2) > 20
    return bright.any(axis=1).mean(), bright.any(axis=0).mean()


def test_the_crop_is_a_square_around_the_whole_disc_with_black_where_the_sensor_cut_it(photograph):
    rgb = photograph(width=300, height=160, radius=100)
    crop = square_crop(rgb, detect_field_of_view(rgb), 100)
    assert crop.shape == (100, 100, 3) and crop.dtype == np.uint8
    assert crop[:9].max() == 0 and crop[-9:].max() == 0 and crop[12:88].max(axis=(1, 2)).min() > 60
    tall, wide = circle_difference(crop)
    assert wide > 0.95 and 0.75 < tall < 0.85
    assert crop[0, 0].max() == 0 and crop[99, 99].max() == 0


@pytest.mark.parametrize("height", [160, 240])
def test_a_crop_is_found_again_though_it_is_cut_within_its_frame(photograph, height):
    rgb = photograph(width=300, height=height, radius=100)
    crop = square_crop(rgb, detect_field_of_view(rgb), 128)
    fov = detect_field_of_view(crop)
    assert np.allclose([fov.x, fov.y, fov.radius], [63.5, 63.5, 64], atol=1.5)
    again = square_crop(crop, fov, 128)
    assert np.abs(again.astype(float) - crop).mean() < 4


CHANGES = {
    "dark": lambda rgb: (rgb * 0.3).astype(np.uint8),
    "noisy": lambda rgb: np.clip(rgb + np.random.default_rng(0).normal(0, 15, rgb.shape), 0, 255).astype(np.uint8),
    "turned": lambda rgb: np.rot90(rgb).copy(),
    "grey": lambda rgb: rgb.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2),
    "lifted": lambda rgb: np.clip(rgb.astype(int) + 25, 0, 255).astype(np.uint8),
    "labelled": lambda rgb: np.where(np.indices(rgb.shape)[:2].sum(axis=0) < 14, 255, rgb).astype(np.uint8),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_disc_is_found_in_poor_photographs(photograph, name):
    rgb = CHANGES[name](photograph(width=240, height=200, radius=90))
    assert abs(detect_field_of_view(rgb).radius - 90) < 3


def test_outside_the_disc_is_black():
    grey = np.full((90, 90, 3), 90, dtype=np.uint8)
    crop = square_crop(grey, FieldOfView(44.5, 44.5, 45), 30)
    rows, columns = np.mgrid[:30, :30] - 14.5
    distance = np.hypot(rows, columns)
    assert (crop[distance > 15] == 0).all() and (crop[distance < 14.9] == 90).all()


def test_resampling_is_by_area():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 200
    rgb = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    crop = square_crop(rgb, FieldOfView(31.5, 31.5, 32), 16)
    assert (crop[6:10, 6:10] == 100).all()


def test_a_frame_is_padded_to_a_square():
    frame = whole_frame(np.full((40, 80, 3), 50, dtype=np.uint8), 20)
    assert frame[:5].max() == 0 and (frame[5:15] == 50).all() and frame[15:].max() == 0


NOT_FUNDUS = {
    "black": (np.zeros((100, 100, 3)), "0 to 0 of 255"),
    "grey": (np.full((100, 100, 3), 130), "130 to 130 of 255"),
    "noise": (np.random.default_rng(0).integers(0, 255, (100, 100, 3)), "circular"),
    "gradient": (np.linspace(0, 255, 30000).reshape(100, 100, 3), "circular"),
    "tiny": (np.zeros((9, 9, 3)), "9 x 9"),
}


@pytest.mark.parametrize("name", NOT_FUNDUS)
def test_what_is_no_fundus_is_refused_with_its_reason(name):
    pixels, fact = NOT_FUNDUS[name]
    with refuses(NotAFundusError, fact):
        detect_field_of_view(pixels.astype(np.uint8))


def test_shapes_that_are_no_disc_are_refused(photograph):
    rgb = photograph(width=200, height=200, radius=140)
    square = np.zeros_like(rgb)
    square[30:170, 30:170] = rgb[30:170, 30:170]
    diamond = rgb.copy()
    diamond[np.abs(np.mgrid[:200, :200] - 99.5).sum(axis=0) > 95] = 0
    octagon = rgb.copy()
    octagon[np.abs(np.mgrid[:200, :200] - 99.5).sum(axis=0) > 145] = 0
    for shape in (square, diamond, octagon):
        with refuses(NotAFundusError, "circular"):
            detect_field_of_view(shape)


def test_a_plain_or_blue_disc_is_refused(photograph):
    rgb = photograph(width=200, height=200, radius=90)
    with refuses(NotAFundusError, "bluer"):
        detect_field_of_view(rgb[:, :, ::-1].copy())
    plain = np.where(rgb.max(axis=2, keepdims=True) > 30, np.uint8(120), np.uint8(0)).repeat(3, axis=2)
    with refuses(NotAFundusError, "inside", "uniform"):
        detect_field_of_view(plain)


@pytest.mark.parametrize("name", ["astronaut", "cat", "text", "coffee", "moon", "colorwheel", "coins", "rocket"])
def test_other_pictures_are_refused(name):
    data = pytest.importorskip("skimage.data")
    pixels = getattr(data, name)()
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    with pytest.raises(NotAFundusError):
        detect_field_of_view(np.ascontiguousarray(rgb[:, :, :3]))


def test_a_real_fundus_photograph_is_accepted():
    data = pytest.importorskip("skimage.data")
    fov = detect_field_of_view(data.retina())
    assert np.allclose([fov.x, fov.y, fov.radius], [704, 702, 702], atol=12)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_truncated_file_is_refused(tmp_path, save_photograph, suffix):
    path = save_photograph(tmp_path / f"whole{suffix}")
    whole = path.read_bytes()
    assert read_image(path).shape == (162, 242, 3)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    with refuses(ImageError, "decoded"):
        read_image(cut)
    with pytest.raises(ImageError):
        read_image(cut, min_side=32)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("text.jpg", "empty.png"):
        with refuses(ImageError, "JPEG, PNG, TIFF, BMP, GIF, WEBP, PPM"):
            read_image(tmp_path / name)
    with refuses(ImageError, "folder", "regular"):
        read_image(tmp_path / "folder.png")


NOT_OF_THE_IMAGE = [
    *("ENOTCONN", "EREMOTEIO", "ENODEV", "ENOMEM", "EAGAIN", "EINTR", "ECONNRESET", "EBUSY"),
    *("EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "EACCES", "EPERM", "EINVAL"),
]


@pytest.mark.parametrize("name", NOT_OF_THE_IMAGE)
def test_a_file_that_cannot_be_had_at_the_moment_says_nothing_of_the_image(
    tmp_path, monkeypatch, save_photograph, name
):
    with refuses(FileNotFoundError, tmp_path / "gone.png"):
        read_image(tmp_path / "gone.png")
    path, number = save_photograph(tmp_path / "away.png"), getattr(errno, name)

    def refuse(*arguments, **named):
        raise OSError(number, os.strerror(number), str(path))

    for module, function in ((os, "open"), (Image, "open"), (ImageFile.ImageFile, "load")):
        with monkeypatch.context() as patched:
            patched.setattr(module, function, refuse)
            with refuses(OSError, path) as caught:
                read_image(path)
            assert caught.value.errno == number


def test_no_memory_says_nothing_of_the_image(tmp_path, monkeypatch, save_photograph):
    path = save_photograph(tmp_path / "whole.png")
    for error in (MemoryError(), OSError("out of memory when reading image file")):  # the second is Pillow's

        def refuse(image, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
        with pytest.raises(MemoryError):
            read_image(path)


def test_the_exif_orientation_is_followed(tmp_path):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.shape == (60, 40, 3)
    assert upright[5, 35].min() > 200 and upright[5, 5].max() < 50


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.linspace(0, 255, 400).reshape(20, 20).astype(np.uint8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    image.save(path)
    rgb = read_image(path)
    assert rgb.shape == (20, 20, 3) and rgb.dtype == np.uint8
    assert rgb[0, 0].max() < 30 and rgb[-1, -1].min() > 225


@pytest.mark.parametrize("top", [100, 255, 1000, 1023, 4000, 4095, 16383, 40000, 65535])
def test_grey_is_scaled_by_its_bit_depth_and_not_by_its_own_maximum(tmp_path, top):
    depth = next(depth for depth in (255, 1023, 4095, 16383, 65535) if top <= depth)
    Image.fromarray(np.linspace(0, top, 400).reshape(20, 20).astype(np.uint16)).save(tmp_path / "grey.png")
    rgb = read_image(tmp_path / "grey.png")
    assert abs(int(rgb.max()) - 255 * top / depth) <= 1 and rgb.min() == 0


def test_grey_of_floating_point_is_read_whether_it_ends_at_1_or_at_255(tmp_path):
    ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    for top in (1, 255):
        Image.fromarray(ramp * top).save(tmp_path / f"{top}.tif")
    ones, bytes_ = read_image(tmp_path / "1.tif"), read_image(tmp_path / "255.tif")
    assert ones.max() == 255 and np.abs(ones.astype(int) - bytes_).max() <= 1
    holed = ramp.copy()
    holed[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(holed).save(tmp_path / "holed.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgb = read_image(tmp_path / "holed.tif")
    assert (rgb[0, :3] == 0).all() and (rgb[1:] == ones[1:]).all()


def test_a_small_target_decodes_a_jpeg_at_a_fraction(tmp_path, save_photograph):
    path = save_photograph(tmp_path / "large.jpg", width=1600, height=1200, radius=580)
    assert read_image(path, min_side=256).shape == (300, 400, 3)
    assert read_image(path, min_side=301).shape == (600, 800, 3)
    assert read_image(path, min_side=5000).shape == (1200, 1600, 3)
    full, reduced = read_image(path), read_image(path, min_side=256)
    crops = [square_crop(rgb, detect_field_of_view(rgb), 64).astype(float) for rgb in (full, reduced)]
    assert np.abs(crops[0] - crops[1]).mean() < 3


def accepted(paths, min_side=256):
    return [path for path in paths if is_fundus(path, min_side)]


def is_fundus(path, min_side):
    try:
        detect_field_of_view(read_image(path, min_side=min_side))
    except (ImageError, NotAFundusError):
        return False
    return True


def test_real_photographs_are_accepted(shared_data):
    drive = sorted(shared_data.glob("DRIVE/*/images/*.tif"))
    chase = sorted(shared_data.glob("CHASE_DB1/*.jpg"))
    rahim = sorted(shared_data.glob("rahim-dr/*/*/*.jpg"))[::15]
    large = sorted(shared_data.glob("rahim-dr-fullsize/*"))[:2]
    assert (len(drive), len(chase), len(rahim), len(large)) == (40, 28, 30, 2)
    found = drive[::4] + chase[::4] + rahim + large
    assert accepted(found) == found


@pytest.mark.slow
def test_all_real_photographs_are_accepted(shared_data):
    found = [*shared_data.glob("DRIVE/*/images/*.tif"), *shared_data.glob("CHASE_DB1/*.jpg")]
    found += [*shared_data.glob("rahim-dr/*/*/*.jpg")]
    assert len(found) == 40 + 28 + 450
    assert accepted(found) == found


def test_polyps_are_refused(shared_data):
    found = sorted(shared_data.glob("Kvasir-SEG/*/images/*.jpg"))[::20]
    assert len(found) == 45
    assert len(accepted(found)) <= 3


def test_the_measured_field_of_view_fits_the_published_mask(shared_data):
    """DRIVE gives a mask of the field of view for every image: the detected disc must agree with it."""
    for path in sorted(shared_data.glob("DRIVE/*/images/*.tif"))[::8]:
        mask = next((path.parents[1] / "mask").glob(path.stem + "_mask*"))
        published = read_image(mask)[:, :, 0] > 127
        fov = detect_field_of_view(read_image(path))
        ys, xs = np.mgrid[: published.shape[0], : published.shape[1]]
        disc = np.hypot(xs - fov.x, ys - fov.y) <= fov.radius
        assert (disc & published).sum() / (disc | published).sum() > 0.98
