"""Cold: items and users that the test knows and the training part does not."""

from __future__ import annotations

import numpy as np

from benchmark.audit.finding import Finding, percent
from benchmark.audit.material import Material

CHECK, MANY = "cold", 0.01


def cold(material: Material) -> list[Finding]:
    """Check how much of what is judged is about items, and about users, that training has never seen."""
    split = material.split
    row, item, _ = material.targets("test", material.test)
    user = material.test.user.numpy()[row]
    known_user = np.bincount(split.train.user, minlength=split.n_users) > 0
    meant = {"items": "cold_items", "users": "cold_users"}
    rows = material.test
    empty = (rows.stop == rows.start).numpy()[row]
    out = []
    for what, ids, known in (("items", item, material.popularity > 0), ("users", user, known_user)):
        new = ~known[ids]
        n, share = len(np.unique(ids[new])), float(new.mean()) if len(new) else 0.0
        said = (
            f"{n:,} {what} of the test are not in training; {percent(share)} of the {len(ids):,} judged test "
            "interactions are theirs"
        )
        numbers = {what: float(n), "test_share": share}
        if not n:
            said = f"All {len(np.unique(ids)):,} {what} that are judged in the test occur in training"
        if what == "users" and n:
            numbers["without_history"] = float(len(np.unique(ids[new & empty])))
            bare = int(numbers["without_history"])
            said += f" (of {bare:,} of them there is no history either)" if bare else " (all have some history)"
        title = f"{what.capitalize()} known to the test only"
        if material.experiment.task.split.kind == meant[what]:
            out.append(Finding(CHECK, title, "fine", f"{said}: the split {meant[what]} means them to be.", numbers))
        elif share > MANY:
            blind = f"a model that knows {what} by their ids alone can only guess there"
            out.append(Finding(CHECK, title, "warning", f"{said}: {blind}.", numbers))
        else:
            out.append(Finding(CHECK, title, "fine", f"{said}.", numbers))
    return out
