"""Marks words that are translated later, where they are shown.

A table of words stands in a module and is made once, while each viewer has a language of their own. ``N_``
lets `pybabel extract` find the words where they stand; the pages translate them as they say them.
"""


def N_(message: str) -> str:
    """*message* as it is: it is to be translated by whoever shows it."""
    return message
