"""What a stage says when a person can mend it: one line, and the next step."""

from __future__ import annotations


class PipelineError(Exception):
    """A fault in what the pipeline was given. `message` names what and where; `remedy` is the next step."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
