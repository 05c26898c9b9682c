"""Checks of figures: nothing is cut off, every panel says what it shows, letters can be read when a figure is shown at half its size."""

from typing import Any

from examples.panels import DOTS_PER_INCH

PIXELS = 10  # high, at half size


def assert_legible(figure: Any) -> None:
    """Texts lie within the figure, apart from each other, and are large enough; panels have titles, names of axes and rows."""
    figure.set_dpi(DOTS_PER_INCH)
    figure.canvas.draw()
    assert figure.get_suptitle()
    for panel in figure.axes:
        assert panel.get_title(loc="left") and panel.get_xlabel(), panel
    texts = [text for text in figure.findobj(lambda one: hasattr(one, "get_fontsize")) if text.get_visible() and text.get_text().strip()]
    for text in texts:
        assert text.get_fontsize() / 72 * DOTS_PER_INCH / 2 >= PIXELS, text
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if _shown(text)]
    for name, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
    for i, (name, box) in enumerate(boxes):
        for other, beside in boxes[:i]:
            apart = box.x1 <= beside.x0 + 1 or beside.x1 <= box.x0 + 1 or box.y1 <= beside.y0 + 1 or beside.y1 <= box.y0 + 1
            assert apart, (name, other)


def _shown(text: Any) -> bool:
    """Whether a text is drawn: ticks beyond the limits of an axis, or hidden beside a shared one, are not."""
    panel = text.axes
    if panel is None:
        return True
    for axis, limits in ((panel.xaxis, sorted(panel.get_xlim())), (panel.yaxis, sorted(panel.get_ylim()))):
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if text in (tick.label1, tick.label2):
                return limits[0] <= tick.get_loc() <= limits[1]
    return True
