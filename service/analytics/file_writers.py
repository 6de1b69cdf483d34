"""Writes batches of rows to a file: CSV (RFC 4180, UTF-8), or Parquet with the columns' own types.

Money and counts are whole numbers in both. Rates and quantiles, the only numeric or double columns of a view, are doubles in
Parquet. Times are in UTC.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import Any, Final

import orjson

from schema.errors import Unavailable
from schema.read_models.analytics import Column
from schema.timestamps import iso_millis

Rows = Sequence[Sequence[Any]]
Write = Callable[[Rows], None]
_BUFFER: Final = 1 << 20
_TYPES: Final = {
    "bigint": "int64",
    "integer": "int32",
    "smallint": "int16",
    "boolean": "bool_",
    "date": "date32",
    "text": "string",
    "numeric": "float64",
    "double precision": "float64",
    "real": "float32",
}


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


@contextmanager
def writing(format_: Format, file: RawIOBase, columns: Sequence[Column]) -> Iterator[Write]:
    """The file is complete when the block ends, and unusable when the block raises. Raises Unavailable without pyarrow."""
    with (_csv if format_ is Format.CSV else _parquet)(file, columns) as write:
        yield write


@contextmanager
def _csv(file: RawIOBase, columns: Sequence[Column]) -> Iterator[Write]:
    buffer = BufferedWriter(file, _BUFFER)
    text = TextIOWrapper(buffer, encoding="utf-8", newline="", write_through=True)
    lines = csv.writer(text)
    try:
        lines.writerow([column.name for column in columns])
        yield lambda rows: lines.writerows([[_shown(value) for value in row] for row in rows])
        text.flush()
    finally:
        text.detach()
        with suppress(Exception):  # after a failed write, closing must not write the rest again
            buffer.detach()


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return orjson.dumps(value).decode()
    return iso_millis(value) if isinstance(value, datetime) else value


def _parquet_type(pa: Any, type_: str) -> Any:
    """Raises KeyError for a type that no view has."""
    if type_.endswith("[]"):
        return pa.list_(_parquet_type(pa, type_.removesuffix("[]")))
    if type_.startswith("timestamp"):
        return pa.timestamp("us", tz="UTC")
    return getattr(pa, _TYPES[type_])()


@contextmanager
def _parquet(file: RawIOBase, columns: Sequence[Column]) -> Iterator[Write]:
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra, and half a second
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
    except ImportError:
        raise Unavailable(
            "Parquet needs the package pyarrow: pip install 'duro-webhooks[parquet]', or export as csv."
        ) from None
    schema = pa.schema([(c.name, _parquet_type(pa, c.type)) for c in columns])

    def write(rows: Rows) -> None:
        values = [
            pa.array(
                [value if value is None or kind != pa.float64() else float(value) for value in column],
                kind,
            )
            for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
        ]
        writer.write_table(pa.Table.from_arrays(values, schema=schema))

    with ParquetWriter(file, schema, compression="zstd") as writer:
        yield write
