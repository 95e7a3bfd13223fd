"""The documentation is true: its commands run, its site builds, its tables are current."""
