"""What a bulk submission asks, read from every form in which people have it, as a stream of rows."""

from producer.rows.input import Form
from producer.rows.reading import read_rows
from producer.rows.row import BadRow, Row, pictures
from producer.rows.source import Columns, Source

__all__ = ["BadRow", "Columns", "Form", "Row", "Source", "pictures", "read_rows"]
