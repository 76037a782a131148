"""One file for each published task, with a `TASK`; its name is the file's. `himix_edge.evaluation.task` finds them."""
