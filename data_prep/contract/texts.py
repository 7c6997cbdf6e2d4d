"""Texts of one form, refused in words: people are not shown a pattern."""

import re

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def matching(pattern: str, words: str) -> AfterValidator:
    """Refuses text that does not match, and says in `words` what is expected."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("pattern", words)
        return text

    return AfterValidator(check)
