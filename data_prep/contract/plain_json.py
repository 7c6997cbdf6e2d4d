"""JSON that comes from elsewhere: whatever is wrong with it is one kind of error."""

import json
from typing import Any


def parsed(text: bytes | str) -> Any:
    """What it says. Raises ValueError for what is no JSON, or nested more deeply than Python's parser goes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
