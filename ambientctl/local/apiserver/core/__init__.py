"""What the API server decides: no sockets, no clock, no tasks."""
