"""The commands: ``eddy`` for managers and tools, ``eddy-agent`` for the operator of a host."""
