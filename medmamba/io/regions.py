"""In which order regions have to be painted into one label map so that all of them can be read from it again."""

from __future__ import annotations

from collections.abc import Sequence

from medmamba.labels import Label


def lost_values(regions: Sequence[Label], paints: Sequence[int]) -> dict[str, dict[int, int]]:
    """What becomes of the regions of a label map when each paints its value, later ones over earlier ones.

    Args:
        regions: in the order in which they paint.
        paints: what they paint.

    Returns:
        For each region that reads otherwise afterwards, what its values, or those of others that become its own, turn
        into.
    """
    painted = {value: paint for region, paint in zip(regions, paints, strict=True) for value in region.values}
    by_value = sorted(painted.items())
    lost = {
        region.name: {v: paint for v, paint in by_value if (v in region.values) != (paint in region.values)}
        for region in regions
    }
    return {name: changed for name, changed in lost.items() if changed}


def painting_order(regions: Sequence[Label]) -> tuple[tuple[Label, ...], tuple[int, ...]] | None:
    """Regions and what each has to paint, larger ones first where there is a choice; None when no order keeps them all.

    The last region paints all of its values alike, so none of the others may tell them apart. What it covers does not
    concern the others any more, which is why the first one found that can be the last is as good as any.
    """
    values = {value for region in regions for value in region.values}
    owners = {value: frozenset(r.name for r in regions if value in r.values) for value in values}
    waiting, covered = sorted(regions, key=lambda region: -len(region.values)), set[int]()
    order: list[tuple[Label, int]] = []
    while waiting:
        for region in reversed(waiting):
            left = [value for value in region.values if value not in covered]
            if len({owners[value] for value in left}) <= 1:
                break
        else:
            return None
        waiting.remove(region)
        order.insert(0, (region, min(left or region.values)))
        covered.update(region.values)
    return tuple(region for region, _ in order), tuple(paint for _, paint in order)


def order_remedy(regions: Sequence[Label]) -> str:
    """How to write regions in dataset.json so that none of them is lost."""
    found = painting_order(regions)
    if found is not None:
        names, paints = ", ".join(region.name for region in found[0]), list(found[1])
        return f'write the regions in the order {names}, with "regions_class_order": {paints}'
    extended, added = list(regions), list[int]()
    # Values that lie in the most regions are those that others cannot paint.
    shared = sorted({v for r in regions for v in r.values}, key=lambda v: -sum(v in r.values for r in regions))
    for value in shared:
        extended.append(Label(name=f"only_{value}", values=(value,)))
        added.append(value)
        if painting_order(extended) is not None:
            break
    each = "the value" if len(added) == 1 else "each of the values"
    return (
        f"no order keeps them all, because they overlap in parts; declare one more region for {each} "
        f'{", ".join(map(str, added))}, such as "{extended[-1].name}": [{added[-1]}]'
    )
