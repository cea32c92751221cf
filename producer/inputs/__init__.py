"""Inputs of a bulk submission, in every supported form, read as a stream of rows."""

from producer.inputs.count import RowCount
from producer.inputs.detect import detect_source
from producer.inputs.files import Form
from producer.inputs.reader import read_rows
from producer.inputs.row import BadRow, Row, image_sources
from producer.inputs.source import Columns, Source

__all__ = [
    "BadRow",
    "Columns",
    "Form",
    "Row",
    "RowCount",
    "Source",
    "detect_source",
    "image_sources",
    "read_rows",
]
