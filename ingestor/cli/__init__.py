"""What a person types: one parser, one subcommand a module, what is printed, exit codes."""
