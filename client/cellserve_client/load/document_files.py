"""Documents of load tests in files, as ``cellserve load --json FILE`` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from cellserve.errors import FieldInvalidError
from cellserve_client.load.document import LoadDocument

# An hour's test has about one megabyte.
MAX_DOCUMENT_BYTES = 128 * 1024 * 1024


def read_document(path: Path) -> LoadDocument:
    """Reads a document.

    Raises:
        FieldInvalidError: the file cannot be read, is too big, or is no document of a load test; the message names it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise FieldInvalidError(f"{path}: expected at most {MAX_DOCUMENT_BYTES:,} bytes; it has {size:,}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FieldInvalidError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FieldInvalidError(f"{path}: expected JSON in UTF-8; byte {error.start} is not") from error
    try:
        return LoadDocument.from_json(json.loads(text))
    except FieldInvalidError as error:
        raise FieldInvalidError(f"{path}: {error.message}") from error
    except (ValueError, RecursionError) as error:  # Of thousands of digits a ValueError that is no JSONDecodeError.
        raise FieldInvalidError(f"{path}: expected the JSON of a load test: {error}") from error
