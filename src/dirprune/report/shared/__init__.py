"""Parts that both kinds of pages share."""
