"""What Saragih et al. 2024 report of the same question: their figures, of other data, at another size, and not ours."""

SOURCE = (
    "Saragih, Hibi and Tyrrell 2024 (arXiv 2310.16794, doi 10.1007/s11548-024-03213-z), tables 3, 4 and 6 of their "
    "draft of 13 September 2023 (github.com/dsaragih/diffuse-gen, commit 46f884c); the tables of the journal may differ"
)
SETTING = (
    "HyperKvasir polyps, 348 pairs for training and 200 images for testing, 256 px, U-Net++ with SE-ResNeXt-50, 150 "
    "epochs, a single training each. Styled-Diff is their diffusion with style transfer, GAN is SinGAN-Seg"
)
HEADER = ("trained on", "16", "32", "64", "128", "348 (all)")
IOU = (  # by the number of real images
    ("real only", 0.5263, 0.6201, 0.6930, 0.7982, 0.8085),
    ("real + synthetic, Styled-Diff, 1 : 1", 0.5930, 0.6494, 0.7262, 0.7511, None),
    ("real + synthetic, Styled-Diff, 2 : 1", 0.5968, 0.6690, 0.7133, 0.7525, None),
    ("real + synthetic, Styled-Diff, 3 : 1", 0.6072, 0.6812, 0.7294, 0.7494, None),
    ("real + synthetic, GAN, 1 : 1", 0.5658, 0.6326, 0.7184, 0.7536, None),
    ("real + synthetic, GAN, 2 : 1", 0.5762, 0.6609, 0.7142, 0.7513, None),
    ("real + synthetic, GAN, 3 : 1", 0.5863, 0.6765, 0.7098, 0.7511, None),
    ("real + synthetic, Styled-Diff, each with probability 0.5", None, None, None, None, 0.7644),
    ("real + synthetic, GAN, each with probability 0.5", None, None, None, None, 0.7613),
    ("synthetic only, Styled-Diff, 1 : 1", None, None, None, None, 0.6840),
    ("synthetic only, Styled-Diff, 2 : 1", None, None, None, None, 0.7027),
    ("synthetic only, Styled-Diff, 3 : 1", None, None, None, None, 0.7396),
    ("synthetic only, GAN, 1 : 1", None, None, None, None, 0.5790),
)


def rows() -> list[list[str]]:
    """The IoU as text, a row an arm; `-` where they report none."""
    return [[name, *("-" if value is None else f"{value:.3f}" for value in values)] for name, *values in IOU]


def as_json() -> dict[str, object]:
    """The same for study.json."""
    figures = {name: dict(zip(HEADER[1:], values, strict=True)) for name, *values in IOU}
    return {"source": SOURCE, "setting": SETTING, "iou": figures}
