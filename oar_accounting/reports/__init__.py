"""Reports: what people ask beyond who used how much, and a viewer's own part of it."""
