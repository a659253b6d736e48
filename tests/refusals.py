"""How tests say that something is refused: by the type of the error and the facts that its message names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def refuses(
    error: type[BaseException] | tuple[type[BaseException], ...], *facts: Any
) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error whose message names every fact: a key, a value, a file, a row. The wording is free."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    missing = [str(fact) for fact in facts if str(fact) not in message]
    assert not missing, f"the message does not name {missing}: {message}"
