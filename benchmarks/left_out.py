"""Why a column of the table is empty."""


class LeftOut(Exception):
    """A runner cannot run here (a compiler, a processor's instructions or a package is missing); says which."""
