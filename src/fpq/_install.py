"""Explains, when fpq is imported, an installation that cannot work."""

import os
import warnings

FOLDER = os.path.dirname(__file__)
AGAIN = "install fpq from its checkout with `pip install .`"

try:
    import fpq._native  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"fpq: the compiled module is missing from {FOLDER}, or does not load ({error}). This is a source folder or a "
        f"damaged installation: {AGAIN}, and import it from another folder"
    ) from error

if os.path.exists(os.path.join(FOLDER, "quaternion.py")):  # a module of that package
    warnings.warn(
        f"fpq: {FOLDER} also holds the unrelated package that `pip install fpq` installs, and removing either package "
        f"breaks the other. Run `pip uninstall fpq fpq-ann`, and {AGAIN}",
        RuntimeWarning,
        stacklevel=3,
    )
