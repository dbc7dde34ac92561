"""Image files by the names that annotations give them."""

from functools import cached_property
from pathlib import Path


def image_path(folder: Path, name: str) -> Path:
    """The image file `name` in `folder`. Raises ValueError with a reason if there is none."""
    path = folder / name
    try:
        if path.is_file():
            return path
    except OSError:  # a name that is too long for a file, such as a data URL
        name = f"{name[:60]}…"
    raise ValueError(f"there is no image {folder / name}")


class ImageFinder:
    """Images of a data set: beside the annotation file, under its root, or anywhere below it.

    data: the folder or file that a person named; annotations: the file that names the images.
    """

    def __init__(self, data: Path, annotations: Path) -> None:
        folder = annotations.parent
        above = folder.parent if folder.name == "annotations" else folder
        self.annotations, self.root = annotations, data if data.is_dir() else above

    def __call__(self, name: str) -> Path:
        """The file of this name. Raises ValueError if there is none."""
        for folder in (self.annotations.parent, self.root):
            try:
                return image_path(folder, name)
            except ValueError:
                continue
        found = self._by_name.get(Path(name).name)
        if found is None:
            short = name if len(name) <= 80 else f"{name[:80]}…"
            raise ValueError(f"{self.annotations} names {short}, which is not under {self.root}.")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        return {path.name: path for path in sorted(self.root.rglob("*.*"), reverse=True)}
