"""What a node answers instead of doing it."""


class Refused(Exception):
    """A connection is refused; the text is the sentence that the client raises."""
