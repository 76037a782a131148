"""Numbers and bytes for people: the one way in which tables, pages and messages write them."""

KILO, MEGA, GIGA = 1e3, 1e6, 1e9


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def size(count: float | None) -> str:
    """Bytes as "812 kB", "52.3 MB" or "1.24 GB" (powers of 1000), or a dash."""
    if count is None:
        return "-"
    for unit, name in ((GIGA, "GB"), (MEGA, "MB")):
        if count >= 0.9995 * unit:  # 999.6 MB would read 1000 MB
            return f"{number(count / unit)} {name}"
    return f"{number(count / KILO)} kB"
