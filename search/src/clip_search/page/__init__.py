"""A local web page that searches a dataset: `clip-search serve`. Needs the extra `serve`."""
