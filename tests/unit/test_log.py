"""No telephone number is ever written to a log in clear."""

import logging

import pytest
import structlog

from trunkline.kit import log


@pytest.mark.parametrize("form", ["json", "console"])
def test_numbers_are_masked(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In our own lines and in those of libraries, in a field, a message and an exception."""
    log.configure(form, "info")  # type: ignore[arg-type]
    try:
        structlog.get_logger().info("call_answered", **{"pii.caller": "+12025550134"})
        logging.getLogger("some.library").warning("dialling %s failed", "+12025550134")
        try:
            raise ValueError("no route to +12025550134")
        except ValueError:
            structlog.get_logger().exception("call_failed")
    finally:
        logging.getLogger().handlers = []
        structlog.reset_defaults()
    said = capsys.readouterr().err
    assert said.count("call_answered") == 1
    assert "no route to" in said
    assert "5550134" not in said
    assert "+12025550134" not in said
