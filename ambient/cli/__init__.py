"""What every program's start has in common: settings, signals, exit codes."""
