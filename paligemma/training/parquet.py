"""Samples of Parquet files."""

from collections.abc import Mapping
from pathlib import Path

from paligemma.formats.image_files import image_path
from paligemma.formats.parquet import RowPlace, find_parquet, read_parquet, read_parquet_images
from paligemma.formats.samples import SampleRecord
from paligemma.images import open_image
from paligemma.tasks import task_of
from paligemma.training.sources import InvalidSample, Sample


class ParquetRows:
    """The samples in a Parquet file, or in all that a pattern fits: see `formats.parquet`.

    Texts are kept in memory, images are read when they are needed. `images` is where those are that
    the file names without holding them.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, path: Path, images: Path | None = None, prefix: str | None = None) -> None:
        self.images = images or path.parent
        self.invalid: list[InvalidSample] = []
        self.rows: list[tuple[RowPlace, SampleRecord]] = []
        for file in find_parquet(path):
            for place, records in read_parquet(file, prefix):
                if isinstance(records, str):
                    self.invalid.append(InvalidSample(f"{_name(place)}: {records}."))
                else:
                    self.rows += [(place, record) for record in records]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        place, record = self.rows[row]
        try:
            found = [
                image_path(self.images, image) if isinstance(image, str) else image
                for image in read_parquet_images(place)
            ]
        except ValueError as error:
            raise InvalidSample(f"{_name(place)}: {error}.") from None
        image, *more = map(open_image, found)
        task = task_of(record.prefix)
        return Sample(image, record.prefix, record.suffix, task, tuple(more))

    def place(self, row: int) -> str:
        return _name(self.rows[row][0])


def _name(place: RowPlace) -> str:
    return f"{place.path.name}, row {place.number}"
