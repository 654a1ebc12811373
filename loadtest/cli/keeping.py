"""What `loadtest run` keeps in the run folder before the first request of a level."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from loadtest.asyncio_driver.session import Keep
from loadtest.errors import PredictionError


def kept_prediction(file: Path | None) -> Keep:
    """Return what copies a prediction into the run folder; it is read and checked now, before anything is sent."""
    if file is None:
        return lambda _: {}
    from loadtest.analyse.whatif.prediction_file import FILE_NAME, file_digest, parse_document

    try:
        body = file.read_bytes()
    except OSError as error:
        raise PredictionError(f"cannot read {file}: {error.strerror}.") from None
    made = parse_document(body, str(file)).made

    def keep(folder: Path) -> dict[str, Any]:
        (folder / FILE_NAME).write_bytes(body)
        kept = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        return {"prediction": {"sha256": file_digest(body), "made": made, "kept": kept}}

    return keep
