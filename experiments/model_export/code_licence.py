"""The licence of the code in an exported folder, which is this project's whatever that of the weights."""

import shutil
from importlib import metadata
from pathlib import Path

FILE = "LICENSE-CODE"
CHECKOUT = Path(__file__).parents[2]


def write_licence(folder: Path) -> None:
    """Put the licence's text beside code that a folder ships; nothing where there is no code.

    Where neither the installed package nor a checkout holds the text, the files still name it in their first line.
    """
    text = licence_file()
    if code_of(folder) and text is not None:
        shutil.copyfile(text, folder / FILE)


def licence_file() -> Path | None:
    """LICENSE of the checkout, or of the installed package; None where there is neither."""
    if (CHECKOUT / "setup.cfg").is_file() and (CHECKOUT / "LICENSE").is_file():  # not another package's, beside ours
        return CHECKOUT / "LICENSE"
    try:
        files = metadata.files("synfundus") or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name == "LICENSE" and ".dist-info" in str(file))
    return next((path for path in found if path.is_file()), None)


def code_of(folder: Path) -> list[str]:
    """Paths of the code within a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
