"""HTML pages in one file each, which open without a network."""
