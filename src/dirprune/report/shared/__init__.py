"""Parts of all pages."""
