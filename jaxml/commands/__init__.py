"""The command line, a module a sub-command: its parser, and what it runs."""
