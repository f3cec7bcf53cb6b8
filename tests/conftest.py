"""Shape annotations of genref are enforced by beartype in every test; users have no such hook."""

from pathlib import Path

from jaxtyping import install_import_hook

pytest_plugins = ["genref._site.claims"]

topics = [path.parent.name for path in Path(__file__).parent.parent.glob("genref/[!_]*/__init__.py")]
install_import_hook([f"genref.{topic}" for topic in topics], "beartype.beartype")
