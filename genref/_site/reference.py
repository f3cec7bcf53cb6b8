"""The griffe extension of the Reference: a claim in a docstring becomes one line that links up to its box."""

from pathlib import Path
from typing import Any

import griffe

from genref._site.scan import CLAIM


class Claims(griffe.Extension):
    """Replaces each `Claim:` section, statement and all, by its link."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            page = f"{Path(str(obj.filepath)).stem}.md"  # the page of the stem stands where this docstring is shown
            link = r"Claim: [`\1`](" + page + r"#claim-\1), above." + "\n\n"
            obj.docstring.value = CLAIM.sub(link, obj.docstring.value)
