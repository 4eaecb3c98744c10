"""One format for file sizes."""


def size_text(size: float) -> str:
    """Format a number of bytes in kB (1,000 bytes) or, from a million bytes on, in MB.

    Example:
        >>> size_text(53_590), size_text(102_230_480)
        ('53.6 kB', '102.2 MB')
    """
    return f"{size / 1e3:,.1f} kB" if size < 999_950 else f"{size / 1e6:,.1f} MB"
