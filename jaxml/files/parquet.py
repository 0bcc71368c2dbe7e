"""Rows of parquet files, counted before they are expanded.

A few bits stand for a row like the one before it, and for a long text that a dictionary has once:
neither the size of the file nor its header tells what the texts of all rows take.
"""

from pathlib import Path
from typing import Any

from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES, ROW_BYTES, VALUE_BYTES, check_memory
from jaxml.files.unique import first_repeated

# Rows that are decoded at a time: fewer where all texts of a file might be in each.
_FEWEST_ROWS, _MOST_ROWS = 64, 1024


def read_parquet(path: Path, *, max_bytes: int = MAX_BYTES) -> list[dict[str, Any]]:
    """Return the rows of a parquet file.

    Args:
      path: of the file.
      max_bytes: most memory that they may take.

    Returns:
      A dictionary a row.

    Raises:
      ModuleNotFoundError: pyarrow is missing.
      OSError: it cannot be opened.
      DataError: it is damaged, two of its columns have one name, or it is too large.
    """
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if (twice := first_repeated(names)) is not None:
                raise DataError(f"two columns are called {twice!r}; give each its name")
            groups = file.metadata
            stored = sum(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
            row_bytes = ROW_BYTES + VALUE_BYTES * len(names)
            check_memory(row_bytes * groups.num_rows + stored, max_bytes)
            at_once = min(_MOST_ROWS, max(_FEWEST_ROWS, max_bytes // max(stored, 1)))
            rows: list[dict[str, Any]] = []
            taken = 0
            for batch in file.iter_batches(at_once):
                taken += row_bytes * batch.num_rows + sum(map(_decoded_bytes, batch.columns))
                check_memory(taken, max_bytes)
                rows.extend(batch.to_pylist())
            return rows
    except (DataError, OSError):
        raise
    except (ValueError, OverflowError, ArrowException) as error:
        raise DataError(str(error)) from error


def _decoded_bytes(column: Any) -> int:
    """Return the bytes of the values of an array of pyarrow, each with its own text."""
    import pyarrow.compute
    from pyarrow import types

    # Its functions are made when it is imported.
    compute: Any = pyarrow.compute
    kind = column.type
    if types.is_dictionary(kind):
        numbers = column.indices.fill_null(0)
        if not types.is_string(kind.value_type) and not types.is_large_string(kind.value_type):
            return _decoded_bytes(column.dictionary) * len(column)
        lengths = compute.take(compute.binary_length(column.dictionary), numbers)
        return compute.sum(compute.cast(lengths, "int64")).as_py() or 0
    if types.is_struct(kind):
        return sum(map(_decoded_bytes, column.flatten()))
    if types.is_list(kind) or types.is_large_list(kind):
        inner = column.flatten()
        return VALUE_BYTES * len(inner) + _decoded_bytes(inner)
    return column.nbytes
