"""One look at a model: its layers, groups, blocks and the table of its operators."""
