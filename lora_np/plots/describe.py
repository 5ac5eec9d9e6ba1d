"""What a figure shows, in words: the alternative text of a picture, for those who cannot see it."""

import numpy as np

MANY = 6  # panels: of more, the titles alone are told
LONGEST = 16  # things that are told of a panel


def description(figure):
    """The figure's titles, and for each panel its axes and what is drawn there, as one line of text.

    A line is told by its label and its first and last value, rows and bars by their names, a map by its size and its
    range. Bands and notes are left out. "" if the figure has no title and nothing that can be told.
    """
    panels = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
    titles = [figure.get_suptitle(), *(ax.get_title() for ax in panels)]
    if len(panels) > MANY:
        return "; ".join(_one_line(title) for title in titles if title)
    told, before, names = [_one_line(titles[0])], "", {}
    for ax in panels:
        bare = not any(text.get_text() for text in ax.get_yticklabels())  # the names stand beside the panel before
        names = names if bare else _names(ax.yaxis)
        axes = " by ".join(_one_line(label) for label in (ax.get_ylabel(), ax.get_xlabel()) if label)
        head = [_one_line(ax.get_title()), axes if axes != before else ""]
        told.append(_panel(ax, ", ".join(part for part in head if part), names))
        before = axes
    return ". ".join(text for text in told if text)


def _panel(ax, head, names):
    """One panel: its head, then what is drawn. Lines without a label are told where nothing has one."""
    drawn = [*_bars(ax, names), *(_rows(ax, names) if names else _lines(ax) + _points(ax)), *_levels(ax), *_maps(ax)]
    if not drawn:
        drawn = [f"a line {_ends(y)}" for _, _, y in _curves(ax) if len(y)]
    more = ["and more"] if len(drawn) > LONGEST else []
    return f"{head}: {'; '.join([*drawn[:LONGEST], *more])}".strip(" :")


def _curves(ax):
    """[(label or "", x, y)] of the lines through data, those of error bars among them; not finite values left out."""
    labels = {c.lines[0]: c.get_label() for c in ax.containers if hasattr(c, "has_yerr") and c.lines[0]}
    found = []
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if line.get_transform() == ax.transData and (np.isfinite(x) & np.isfinite(y)).any():
            kept = np.isfinite(x) & np.isfinite(y)
            found.append((_label(labels.get(line, line.get_label())), x[kept], y[kept]))
    return found


def _lines(ax):
    return [f"{label} {_ends(y)}" for label, _, y in _curves(ax) if label and len(y)]


def _rows(ax, names):
    """What lies on each named height: the range of its values along the x axis."""
    places = [(x, y) for _, x, y in _curves(ax)]
    places += [np.transpose(dots.get_offsets()) for dots in _clouds(ax)]
    found = {}
    for x, y in places:
        for one, height in zip(x, y, strict=True):
            nearest = min(names, key=lambda place: abs(place - height))
            found.setdefault(names[nearest], []).append(one)
    return [f"{name}: {_range(found[name])}" for name in names.values() if name in found]


def _levels(ax):
    """Lines across the whole panel that have a label."""
    found = []
    for line in ax.get_lines():
        if line.get_transform() != ax.transData and _label(line.get_label()):
            x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
            found.append(f"{line.get_label()} at {_number(y[0] if y[0] == y[-1] else x[0])}")
    return found


def _points(ax):
    """Labelled clouds of points: from which to which."""
    told = []
    for dots in _clouds(ax):
        if _label(dots.get_label()):
            ends = [f"({_number(x)}, {_number(y)})" for x, y in np.asarray(dots.get_offsets())[[0, -1]]]
            told.append(
                f"{dots.get_label()} " + ("at " + ends[0] if ends[0] == ends[1] else "from {} to {}".format(*ends))
            )
    return told


def _clouds(ax):
    points = (c for c in ax.collections if c.get_offset_transform() == ax.transData)  # shapes have none in the data
    return [dots for dots in points if hasattr(dots, "get_sizes") and len(dots.get_offsets())]


def _bars(ax, rows):
    """Each set of bars, its label before the names and values. rows: the names of lying ones."""
    told = []
    for bars in (c for c in ax.containers if hasattr(c, "datavalues")):
        lying = bars.orientation == "horizontal"
        names = rows if lying else _names(ax.xaxis)
        each = {}  # bars beside each other may share a name
        for bar, value in zip(bars, bars.datavalues, strict=True):
            at = bar.get_y() + bar.get_height() / 2 if lying else bar.get_x() + bar.get_width() / 2
            name = names[min(names, key=lambda place: abs(place - at))] if names else ""
            each.setdefault(name, []).append(_number(value))
        parts = [f"{name}: {', '.join(values)}".strip(" :") for name, values in each.items()]
        label = _label(bars.get_label())
        told.append(f"{label} ({', '.join(parts)})" if label else ", ".join(parts))
    return told


def _maps(ax):
    """Pictures of a matrix: its size and its range."""
    arrays = [image.get_array() for image in ax.images]
    return [f"a map of {a.shape[0]} x {a.shape[1]} values, {_range(np.ma.compressed(a))}" for a in arrays]


def _names(axis):
    """{place: name} of an axis whose ticks are names, not numbers; {} for another."""
    found = {}
    for place, text in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False):
        words = "" if "$" in text.get_text() else _one_line(text.get_text())  # 10 to some power is a number
        if words and not words.replace("−", "-").lstrip("-").replace(".", "", 1).replace(",", "").isdigit():
            found[float(place)] = words
    return found


def _label(text):
    return "" if text is None or str(text).startswith("_") else _one_line(str(text))


def _one_line(text):
    """Without line breaks and signs of formulas."""
    return " ".join(text.replace("$", "").replace("\\", "").split())


def _ends(values):
    first, last = _number(values[0]), _number(values[-1])
    return f"at {first}" if len(values) == 1 else f"from {first} to {last}"


def _range(values):
    low, high = _number(np.nanmin(values)), _number(np.nanmax(values))
    return low if low == high else f"{low} to {high}"


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"
