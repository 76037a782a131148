"""Every parser of outside data, fed with damaged and hostile files: `make fuzz`, and a minute of it in the tests.

`targets` says what is parsed, `material` makes the valid files that damage starts from, `mutations` damages them,
`worker` feeds them to the parser in a process of its own, and `running` watches it. An input is refused (a HimixError)
or taken; any other exception, ten seconds, or 500 MB beyond the input's size are findings. Input number n of a target
is the same on every machine and in every run.
"""
